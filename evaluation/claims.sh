#!/usr/bin/env bash
# Makes the pictures of the paper's claims, measures them, and writes the tables of docs/src/claims.md.
#
#   evaluation/claims.sh [CLAIM …]        budgets, dsap, tau …: the files of recipes/claims without .toml, and background; default: all
#
# If it is killed, run the same command again: it keeps finished pictures and measures. It reads these variables:
#   N=64                  number of prompts, from the first of the held-out stream
#   SINGLES=256           number of prompts of one object, for `model`
#   MASKED=24             number of scenes, for `background`
#   MODEL                 a checkpoint, instead of the built-in model
#   OUT=target/claims     folder of pictures and measures
#   ATEDM=target/release/atedm
#   PYTHON=target/python/bin/python     with evaluation/requirements.txt installed
#   BACKEND=candle, THREADS             as in `atedm ablate`; torch also uses THREADS
#   REFERENCES=1024       number of held-out renders that KID compares with
#   CLASSIFIER, ALIGNMENT files of the two trained measures (OUT/classifier.npz, OUT/alignment.npz)
#   SCENES=10000          number of renders that each of these is trained on, if its file does not exist
#   STEPS, PAGE           for a trial: another number of steps than in the files, another page than docs/src/claims.md
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/evaluation${PYTHONPATH:+:$PYTHONPATH}
here=recipes/claims

N=${N:-64}
SINGLES=${SINGLES:-256}
MASKED=${MASKED:-24}
OUT=${OUT:-target/claims}
ATEDM=${ATEDM:-target/release/atedm}
PYTHON=${PYTHON:-target/python/bin/python}
BACKEND=${BACKEND:-candle}
REFERENCES=${REFERENCES:-1024}
SCENES=${SCENES:-10000}
PAGE=${PAGE:-docs/src/claims.md}
CLASSIFIER=${CLASSIFIER:-$OUT/classifier.npz}
ALIGNMENT=${ALIGNMENT:-$OUT/alignment.npz}

fail() {
    echo "error: $1" >&2
    exit 1
}
for number in "$N" "$SINGLES" "$MASKED" "$REFERENCES" "$SCENES"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "N, SINGLES, MASKED, REFERENCES, SCENES: expected a count, got '$number'"
done
[[ -z ${STEPS:-} || $PAGE != docs/src/claims.md ]] || fail "STEPS: the tables have the files' own steps: name another PAGE"
command -v "$ATEDM" >/dev/null || fail "ATEDM: $ATEDM: not there (cargo build --release)"
command -v "$PYTHON" >/dev/null || fail "PYTHON: $PYTHON: not there"
[[ -f $PAGE ]] || fail "PAGE: $PAGE: not there"

claims=("$@")
[[ $# -gt 0 ]] || claims=(model background budgets dsap tau schedule score recovery prune-point votes scorer guidance overlap merging newer stacks)
for claim in "${claims[@]}"; do
    [[ $claim == background || -f $here/$claim.toml ]] || fail "$here/$claim.toml: not there"
done

# scenes FOLDER FLAG …: makes renders, unless they exist
scenes() {
    local folder=$1
    shift
    [[ -f $folder/labels.jsonl ]] && return
    rm -rf "$folder.part"
    "$ATEDM" scenes --out "$folder.part" "$@"
    mv "$folder.part" "$folder"
}

# features PICTURES FILE SOURCE: makes the file, unless it is newer than its source
features() {
    [[ $2 -nt $3 ]] || "$PYTHON" -m atedm_evaluation.features "$1" "$2" "${threads[@]}"
}

mkdir -p "$OUT"
threads=()
[[ -z ${THREADS:-} ]] || threads=(--threads "$THREADS")
model=()
[[ -z ${MODEL:-} ]] || model=(--model "$MODEL")

# Prompts, and renders of the same scenes and more. Picture 00007 of every point is of scene 00007.
prompts=$OUT/prompts-$N
scenes "$prompts" --split held-out --count "$N"
same=$((N < 64 ? N : 64))
cmp -s <(head -n $same "$prompts/prompts.tsv") <(head -n $same $here/prompts.tsv) ||
    fail "$here/prompts.tsv: $ATEDM makes other held-out scenes than these"
reference=$OUT/held-out-$REFERENCES
scenes "$reference" --split held-out --count "$REFERENCES"
features "$reference" "$reference.npz" "$reference/labels.jsonl"

# The measures that are trained. They use scenes of the training split.
if [[ ! -f $CLASSIFIER ]]; then
    scenes "$OUT/single-$SCENES" --split train --single --count "$SCENES"
    scenes "$OUT/single-held-out" --split held-out --single --count 1000
    "$PYTHON" -m atedm_evaluation.classifier train "$OUT/single-$SCENES" --held-out "$OUT/single-held-out" \
        --output "$CLASSIFIER" --markdown "$OUT/classifier.md" "${threads[@]}"
fi
if [[ ! -f $ALIGNMENT ]]; then
    scenes "$OUT/mixed-$SCENES" --split train --count "$SCENES"
    features "$OUT/mixed-$SCENES" "$OUT/mixed-$SCENES.npz" "$OUT/mixed-$SCENES/labels.jsonl"
    "$PYTHON" -m atedm_evaluation.alignment train "$OUT/mixed-$SCENES" --features "$OUT/mixed-$SCENES.npz" \
        --held-out "$reference" --held-out-features "$reference.npz" --output "$ALIGNMENT" "${threads[@]}"
fi

# pictures FILE PROMPTS RUN: makes or continues a run of `atedm ablate`
pictures() {
    "$ATEDM" ablate "$1" "${model[@]}" --prompts "$2" --output "$3" --resume --deterministic --quiet --backend "$BACKEND" "${threads[@]}"
}

# measure NAME PROGRAM FLAG …: measures, unless the values are newer than the pictures
measure() {
    local values=$measures/$1
    shift
    [[ $values.json -nt $results ]] ||
        "$PYTHON" -m "atedm_evaluation.$1" "${@:2}" --json "$values.json" --markdown "$values.md" "${threads[@]}" >/dev/null
}

for claim in "${claims[@]}"; do
    file=$here/$claim.toml
    case $claim in # the set of the claim's pictures and measures; each number has its own folder
    model) set=$SINGLES-singles ;;
    background) set=$MASKED-masked ;;
    overlap) set=16-prompts ;;
    *) set=$N-prompts ;;
    esac
    run=$OUT/$set/$claim
    measures=$OUT/$set/measures/$claim
    results=$run/results.jsonl
    mkdir -p "$measures"
    if [[ -n ${STEPS:-} && -f $file ]]; then
        file=$measures/$claim.toml
        sed -e "s/^steps = .*/steps = $STEPS/" $here/"$claim.toml" >"$file"
    fi
    echo "== $claim" >&2
    case $claim in
    model)
        singles=$OUT/single-prompts-$SINGLES
        scenes "$singles" --split held-out --single --count "$SINGLES"
        pictures "$file" "$singles/prompts.tsv" "$run"
        features "$run/images" "$measures/features.npz" "$results"
        measure classifier classifier score --ablation "$run" --labels "$singles/labels.jsonl" --model "$CLASSIFIER"
        measure alignment alignment score --ablation "$run" --features "$measures/features.npz" --model "$ALIGNMENT"
        "$PYTHON" -m atedm_evaluation.claims_table "$claim" --markdown "$measures/classifier.md" "$measures/alignment.md" --page "$PAGE"
        ;;
    background)
        # It always runs: it keeps its own files of masks, and refuses those of another model.
        "$PYTHON" -m atedm_evaluation.background "$reference" --count "$MASKED" --output "$measures/masks" --atedm "$ATEDM" --jobs 2 \
            "${model[@]}" --json "$measures/background.json" --markdown "$measures/background.md" "${threads[@]}" >/dev/null
        "$PYTHON" -m atedm_evaluation.claims_table "$claim" --markdown "$measures/background.md" --page "$PAGE"
        ;;
    overlap)
        scenes "$OUT/prompts-16" --split held-out --count 16
        pictures "$file" "$OUT/prompts-16/prompts.tsv" "$run"
        measure overlap overlap "$run"
        "$PYTHON" -m atedm_evaluation.claims_table "$claim" --markdown "$measures/overlap.md" --page "$PAGE"
        ;;
    *)
        pictures "$file" "$prompts/prompts.tsv" "$run"
        features "$run/images" "$measures/features.npz" "$results"
        measure unpruned quality --ablation "$run" --features "$measures/features.npz" --measures kid,pairs
        measure held-out quality --ablation "$run" --features "$measures/features.npz" --reference "$reference.npz" --measures kid
        measure alignment alignment score --ablation "$run" --features "$measures/features.npz" --model "$ALIGNMENT"
        measure classifier classifier score --ablation "$run" --labels "$prompts/labels.jsonl" --model "$CLASSIFIER"
        "$PYTHON" -m atedm_evaluation.claims_table "$claim" --run "$run" --measures "$measures" --page "$PAGE"
        ;;
    esac
done
