#!/usr/bin/env bash
# Fetches the packages that scenes of emoji use: Noto Emoji's drawings and emojibase's labels.
#
#     bash recipes/training/fetch-emoji.sh DIR     # 10 MB to fetch; needs npm, tar and sha256sum
#
# It writes noto/icons.json, emojibase/en/data.json, emojibase/meta/groups.json and the packages' licences to DIR.
set -euo pipefail

fail() {
    echo "fetch: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "expected one argument, the folder to write"
for tool in npm tar sha256sum; do
    command -v "$tool" >/dev/null || fail "expected the program $tool"
done
mkdir -p "$1"
to=$(cd "$1" && pwd)
work=$(mktemp -d "$to/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

# package <name@version> <file> <sha256> <folder> <what of it is used>...
package() {
    local name=$1 file=$2 sum=$3 folder=$4
    shift 4
    (cd "$work" && npm pack --silent "$name" >/dev/null) || fail "could not fetch $name"
    echo "$sum  $work/$file" | sha256sum --check --status || fail "$file is not the file that was tested (SHA-256)"
    mkdir -p "$to/$folder"
    (cd "$to/$folder" && tar xzf "$work/$file" --strip-components=1 "${@/#/package/}")
}

package @iconify-json/noto@1.2.9 iconify-json-noto-1.2.9.tgz \
    3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad noto icons.json info.json
package emojibase-data@17.0.0 emojibase-data-17.0.0.tgz \
    d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a emojibase en/data.json meta/groups.json LICENSE
echo "$1: drawings of Noto Emoji 1.2.9 (Apache-2.0), labels of emojibase 17.0.0 (MIT)"
