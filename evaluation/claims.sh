#!/usr/bin/env bash
# Makes the pictures of the paper's claims, measures them, and writes the tables of docs/src/claims.md.
#
#   evaluation/claims.sh [CLAIM …]        budgets, dsap, tau …: the files of recipes/claims without .toml, and background; default: all
#
# If it is killed, run the same command again: it keeps finished pictures and measures. It reads these variables:
#   MODELS                what to make pictures with: NAME=FOLDER …, or atedm-shapes for the built-in model (default), as in
#                         "atedm-shapes atedm-shapes-128=assets/atedm-shapes-128"
#   N=64                  number of prompts, from the first of the held-out stream; or a number for each model, as in "64 32"
#   SINGLES=256           number of prompts of one object, and of two objects, for `model`
#   MASKED=24             number of scenes, for `background`
#   OUT=target/claims     folder of pictures and measures; it has a folder for each model
#   ATEDM=target/release/atedm
#   PYTHON=target/python/bin/python     with evaluation/requirements.txt installed
#   BACKEND=candle        as in `atedm ablate`
#   DTYPE=f32             as in `atedm ablate`; each has its own folders of pictures and measures
#   JOBS                  processes that make pictures, with one thread each; default: one for each processor
#   REFERENCES=1024       number of held-out renders that KID compares with
#   SCENES=10000          number of renders that each trained measure learns from, if its file does not exist (classifier-one.npz and
#                         classifier-two.npz in OUT, alignment.npz in the model's folder)
#   STEPS, PAGE           for a trial: another number of steps than in the files, another page than docs/src/claims.md
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/evaluation${PYTHONPATH:+:$PYTHONPATH}
# Threads that spin while they wait take many times as long when another program runs.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
here=recipes/claims

MODELS=${MODELS:-atedm-shapes}
N=${N:-64}
SINGLES=${SINGLES:-256}
MASKED=${MASKED:-24}
OUT=${OUT:-target/claims}
ATEDM=${ATEDM:-target/release/atedm}
PYTHON=${PYTHON:-target/python/bin/python}
BACKEND=${BACKEND:-candle}
DTYPE=${DTYPE:-f32}
dtype=-$DTYPE
[[ $DTYPE != f32 ]] || dtype=
JOBS=${JOBS:-$(nproc)}
REFERENCES=${REFERENCES:-1024}
SCENES=${SCENES:-10000}
PAGE=${PAGE:-docs/src/claims.md}

fail() {
    echo "error: $1" >&2
    exit 1
}
models=($MODELS)
numbers=($N)
for number in "${numbers[@]}" "$SINGLES" "$MASKED" "$REFERENCES" "$SCENES" "$JOBS"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "N, SINGLES, MASKED, REFERENCES, SCENES, JOBS: expected a count, got '$number'"
done
[[ ${#numbers[@]} -eq 1 || ${#numbers[@]} -eq ${#models[@]} ]] || fail "N: expected one count, or one for each of ${#models[@]} models, got '$N'"
[[ -z ${STEPS:-} || $PAGE != docs/src/claims.md ]] || fail "STEPS: the tables have the files' own steps: name another PAGE"
command -v "$ATEDM" >/dev/null || fail "ATEDM: $ATEDM: not there (cargo build --release)"
command -v "$PYTHON" >/dev/null || fail "PYTHON: $PYTHON: not there"
[[ -f $PAGE ]] || fail "PAGE: $PAGE: not there"

claims=("$@")
[[ $# -gt 0 ]] || claims=(tuning best curve level model background budgets dsap tau schedule score recovery prune-point votes scorer guidance overlap merging newer stacks)
for claim in "${claims[@]}"; do
    [[ $claim == background || -f $here/$claim.toml ]] || fail "$here/$claim.toml: not there"
done

# choose AT: the model of this place in MODELS, and its number of prompts
choose() {
    local entry=${models[$1]}
    name=${entry%%=*}
    model=${entry#*=}
    own=$OUT/$name
    number=${numbers[$1]:-${numbers[0]}}
}

# scenes FOLDER FLAG …: makes renders of the model's size, unless they exist
scenes() {
    local folder=$1
    shift
    [[ -f $folder/labels.jsonl ]] && return
    rm -rf "$folder.part"
    "$ATEDM" scenes --out "$folder.part" --size "$size" "$@"
    mv "$folder.part" "$folder"
}

# features PICTURES FILE SOURCE: makes the file, unless it is newer than its source
features() {
    [[ $2 -nt $3 ]] || "$PYTHON" -m atedm_evaluation.features "$1" "$2" "${threads[@]}"
}

# ablate FILE PROMPTS RUN FLAG …: makes or continues a run, or its shard
ablate() {
    "$ATEDM" ablate "$1" --model "$model" --prompts "$2" --output "$3" --resume --deterministic --quiet --backend "$BACKEND" --dtype "$DTYPE" "${@:4}"
}

# pictures FILE PROMPTS RUN: makes or continues a run, with a process for each shard. Images of other claims, and of other numbers of
# prompts, are copied.
pictures() {
    local run=$3 shards=$3.shards taken=() running=() shard newer=
    for other in "$own"/*-{prompts,singles}"$dtype"/*/run.json; do
        [[ ! -f $other || $(dirname "$other") == "$run" ]] || taken+=(--take-from "$(dirname "$other")")
    done
    for ((shard = 0; shard < JOBS; shard++)); do
        # every process has the same warnings
        ablate "$1" "$2" "$shards" --shard "$shard/$JOBS" --threads 1 "${taken[@]}" 2> >(if [[ $shard -eq 0 ]]; then cat; else grep -v "^warning: "; fi >&2) &
        running+=($!)
    done
    for shard in "${running[@]}"; do
        wait "$shard" || fail "$run: a process failed"
    done
    for shard in "$shards"/shard-*/results.jsonl; do
        [[ $run/results.jsonl -nt $shard ]] || newer=1
    done
    if [[ -n $newer ]]; then
        rm -rf "$run"
        "$ATEDM" ablate merge "$shards" --output "$run"
    fi
}

# measure NAME PROGRAM FLAG …: measures, unless the values are newer than the pictures
measure() {
    local values=$measures/$1
    shift
    [[ $values.json -nt $results ]] ||
        "$PYTHON" -m "atedm_evaluation.$1" "${@:2}" --json "$values.json" --markdown "$values.md" "${threads[@]}" >/dev/null
}

# prepare: prompts, renders of the same scenes and more, for the model. Picture 00007 of every point is of scene 00007.
prepare() {
    prompts=$own/prompts-$number
    scenes "$prompts" --split held-out --count "$number"
    local same=$((number < 64 ? number : 64))
    cmp -s <(head -n $same "$prompts/prompts.tsv") <(head -n $same $here/prompts.tsv) ||
        fail "$here/prompts.tsv: $ATEDM makes other held-out scenes than these"
    reference=$own/held-out-$REFERENCES
    scenes "$reference" --split held-out --count "$REFERENCES"
    features "$reference" "$reference.npz" "$reference/labels.jsonl"
}

# alignment: the measure of captions for the model's pictures. It learns from scenes of the training split, as the classifiers do.
alignment() {
    if [[ ! -f $own/alignment.npz ]]; then
        scenes "$own/mixed-$SCENES" --split train --count "$SCENES"
        features "$own/mixed-$SCENES" "$own/mixed-$SCENES.npz" "$own/mixed-$SCENES/labels.jsonl"
        "$PYTHON" -m atedm_evaluation.alignment train "$own/mixed-$SCENES" --features "$own/mixed-$SCENES.npz" \
            --held-out "$reference" --held-out-features "$reference.npz" --output "$own/alignment.npz" "${threads[@]}"
    fi
}

# classifier OBJECTS: the classifier of scenes with one or two objects. It serves all models: it averages larger pictures to 64 pixels.
classifier() {
    local training=$OUT/train-$1-$SCENES held_out=$OUT/held-out-$1 size=64
    if [[ ! -f $OUT/classifier-$1.npz ]]; then
        scenes "$training" --split train --objects "$1" --count "$SCENES"
        scenes "$held_out" --split held-out --objects "$1" --count 1000
        "$PYTHON" -m atedm_evaluation.classifier train "$training" --held-out "$held_out" \
            --output "$OUT/classifier-$1.npz" --markdown "$OUT/classifier-$1.md" "${threads[@]}"
    fi
}

# measured_run SCENES: the pictures of these scenes' captions, and all measures
measured_run() {
    pictures "$file" "$1/prompts.tsv" "$run"
    features "$run/images" "$measures/features.npz" "$results"
    measure unpruned quality --ablation "$run" --features "$measures/features.npz" --measures kid,pairs
    measure held-out quality --ablation "$run" --features "$measures/features.npz" --reference "$reference.npz" --measures kid
    alignment
    measure alignment alignment score --ablation "$run" --features "$measures/features.npz" --model "$own/alignment.npz"
    classifier one
    measure classifier classifier score --ablation "$run" --labels "$1/labels.jsonl" --model "$OUT/classifier-one.npz"
}

# claim_of NAME: the pictures and measures of a claim with the model
claim_of() {
    local claim=$1 file=$here/$1.toml
    run=$own/$(set_of "$claim")/$claim
    measures=$own/$(set_of "$claim")/measures/$claim
    results=$run/results.jsonl
    mkdir -p "$measures"
    cp "$own/model.json" "$measures/model.json"
    if [[ -n ${STEPS:-} && -f $file ]]; then
        file=$measures/$claim.toml
        sed -e "s/^steps = .*/steps = $STEPS/" $here/"$claim.toml" >"$file"
    fi
    case $claim in
    model)
        local objects prompts
        for objects in two one; do
            prompts=$own/prompts-of-$objects-$SINGLES
            run=$own/$(set_of "$claim")/$claim-$objects
            results=$run/results.jsonl
            classifier "$objects"
            scenes "$prompts" --split held-out --objects "$objects" --count "$SINGLES"
            pictures "$file" "$prompts/prompts.tsv" "$run"
            measure "classifier-$objects" classifier score --ablation "$run" --labels "$prompts/labels.jsonl" \
                --model "$OUT/classifier-$objects.npz"
        done
        features "$run/images" "$measures/features.npz" "$results"
        alignment
        measure alignment alignment score --ablation "$run" --features "$measures/features.npz" --model "$own/alignment.npz"
        ;;
    background)
        # It always runs: it keeps its own files of masks, and refuses those of another model.
        "$PYTHON" -m atedm_evaluation.background "$reference" --count "$MASKED" --output "$measures/masks" --atedm "$ATEDM" --jobs "$JOBS" \
            --model "$model" --json "$measures/background.json" --markdown "$measures/background.md" "${threads[@]}" >/dev/null
        ;;
    tuning)
        scenes "$own/training-prompts-$number" --split train --count "$number"
        measured_run "$own/training-prompts-$number"
        ;;
    overlap)
        scenes "$own/prompts-16" --split held-out --count 16
        pictures "$file" "$own/prompts-16/prompts.tsv" "$run"
        measure overlap overlap "$run"
        ;;
    *) measured_run "$prompts" ;;
    esac
}

# set_of NAME: the set of a claim's pictures and measures; each number of prompts and each dtype has its own folder
set_of() {
    case $1 in
    model) echo "$SINGLES-singles$dtype" ;;
    background) echo "$MASKED-masked" ;;
    overlap) echo "16-prompts$dtype" ;;
    tuning) echo "$number-training-prompts$dtype" ;;
    *) echo "$number-prompts$dtype" ;;
    esac
}

# quoted TEXT: the text, in quotation marks if it has spaces
quoted() {
    if [[ $1 == *" "* ]]; then echo "\"$1\""; else echo "$1"; fi
}

# command_of NAME: what makes the claim's tables again
command_of() {
    local command="evaluation/claims.sh $1"
    [[ $DTYPE == f32 ]] || command="DTYPE=$DTYPE $command"
    [[ $BACKEND == candle ]] || command="BACKEND=$BACKEND $command"
    case $1 in
    model) command="SINGLES=$SINGLES $command" ;;
    background) command="MASKED=$MASKED $command" ;;
    overlap) ;;
    *) command="N=$(quoted "$N") $command" ;;
    esac
    [[ $MODELS == atedm-shapes ]] || command="MODELS=$(quoted "$MODELS") $command"
    echo "$command"
}

# table NAME: writes the tables of a claim, of all models
table() {
    local claim=$1 at folder markdown=() runs=()
    for at in "${!models[@]}"; do
        choose "$at"
        folder=$own/$(set_of "$claim")
        case $claim in
        model) markdown+=("$own/name.md" "$folder/measures/model/"{classifier-one,classifier-two,alignment}.md) ;;
        background | overlap) markdown+=("$own/name.md" "$folder/measures/$claim/$claim.md") ;;
        *) runs+=(--run "$folder/$claim" "$folder/measures/$claim") ;;
        esac
    done
    if [[ ${#runs[@]} -eq 0 ]]; then
        runs=(--markdown "${markdown[@]}")
    fi
    "$PYTHON" -m atedm_evaluation.claims_table "$claim" "${runs[@]}" --command "$(command_of "$claim")" --page "$PAGE"
}

threads=(--threads "$JOBS")
for claim in "${claims[@]}"; do
    for at in "${!models[@]}"; do
        choose "$at"
        echo "== $claim, $name" >&2
        mkdir -p "$own"
        echo "**$name**" >"$own/name.md"
        "$ATEDM" inspect --model "$model" --json >"$own/model.json"
        size=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["width"])' "$own/model.json")
        prepare
        claim_of "$claim"
    done
    table "$claim"
done
