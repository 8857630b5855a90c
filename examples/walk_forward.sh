#!/bin/sh
# Years of walk-forward on daily bars: the network, its rivals with the same help, and both sides stacked.
#
#     sh examples/walk_forward.sh BARS OUT [SEEDS [END [FOLDS [DESIGN [OPTION...]]]]]
#
# BARS is a Parquet file of daily bars (ticker, date, open, high, low, close, volume), of which those from 1995 on are
# used. Each of the last FOLDS (12) calendar years up to END (2017-12-31) is tested by SEEDS (3) models of each kind,
# which are trained, stopped and chosen on earlier days alone. Sources are weighed on the tests up to DESIGN
# (2010-12-31), and judged on those after it. OPTIONs go to every training and rival, such as --set train.blocks=300.
#
# OUT keeps caches, runs and scores. The same command goes on where it was stopped.
set -eu
bars=$1 out=$2 seeds=${3:-3} end=${4:-2017-12-31} folds=${5:-12} design=${6:-2010-12-31}
shift $(($# < 6 ? $# : 6))
mkdir -p "$out"

for entry in close next_open; do
    cache=$out/$entry network=$out/network-$entry
    test -e "$cache" || atft-engine cache build "$bars" --recipe ohlcv --out "$cache" --horizons 1,5 --entry $entry \
        --start 1995-01-01 --end "$end" --min-price 3 --min-dollar-volume 1000000
    if ! test -e "$network"; then
        atft-engine train --arrow "$cache" --folds "$folds" --set split.by_year=true --seeds "$seeds" --out "$network" "$@"
    elif ! test -e "$network/summary.json"; then
        atft-engine train --resume --out "$network"
    fi
    for rival in ridge lightgbm xgboost; do
        scores=$out/$rival-$entry.parquet
        test -e "$scores" || atft-engine baseline --arrow "$cache" --kind $rival --folds "$folds" \
            --set split.by_year=true --seeds "$seeds" --out "$scores" "$@"
    done
    (
        cd "$out"
        ours="network-$entry lightgbm-$entry.parquet ridge-$entry.parquet"
        theirs="lightgbm-$entry.parquet xgboost-$entry.parquet ridge-$entry.parquet"
        atft-engine evaluate $ours --arrow $entry --stack-until "$design" --out ours-$entry.parquet
        atft-engine evaluate $theirs --arrow $entry --stack-until "$design" --out theirs-$entry.parquet
        for one in network-$entry ours-$entry.parquet; do
            atft-engine evaluate "$one" --against theirs-$entry.parquet --arrow $entry --by-year
        done
    )
done
