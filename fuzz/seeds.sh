#!/usr/bin/env bash
# Chooses the seeds anew: fuzz/seeds.sh [SECONDS [TARGET ..]]
#
# Fuzzes each target for a while and keeps, of all inputs that it has, the few that together show the most: so many that fuzzing
# begins where others have been, and so few that they can be checked in. They are no more than starting points: when a format has
# changed they may be of less use, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly seconds=${1:-60} files_max=25 bytes_max=60000
targets=("${@:2}")
if [[ ${#targets[@]} == 0 ]]; then
    mapfile -t targets < <(cargo +nightly fuzz list)
fi

# Those of the inputs named in libFuzzer's account of a merge, each with all that it shows, which show most that is new.
choose() {
    awk -v files_max=$files_max -v bytes_max=$bytes_max '
        NR == 1 { count = $1; next }
        NR == 2 { next }
        NR <= count + 2 { name[NR - 3] = $0; next }
        $1 == "STARTED" { size[$2] = $3 }
        $1 == "FT" { shows[$2] = $0 }
        END {
            for (n = 1; n <= files_max; n++) {
                best = -1; most = 0
                for (file in shows) {
                    # What shows no more than another one once did is not looked at again: it never shows more later.
                    if (file in at_most && at_most[file] <= most || bytes + size[file] > bytes_max) continue
                    new = 0
                    fields = split(shows[file], feature, " ")
                    for (i = 3; i <= fields; i++) if (!(feature[i] in seen)) new++
                    at_most[file] = new
                    if (new > most) { best = file; most = new }
                }
                if (best < 0) break
                print name[best]
                bytes += size[best]
                fields = split(shows[best], feature, " ")
                for (i = 3; i <= fields; i++) seen[feature[i]]
                delete shows[best]
            }
        }' "$1"
}

for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target seeds=fuzz/seeds/$target
    work=$(mktemp -d)
    mkdir -p "$corpus" "$seeds" "$work/all" "$work/chosen"
    run=(cargo +nightly fuzz run "$target")
    flags=(-max_len=4096 -rss_limit_mb=2048 -detect_leaks=0)
    "${run[@]}" "$corpus" "$seeds" -- "${flags[@]}" -len_control=0 -max_total_time="$seconds"
    "${run[@]}" "$work/all" "$corpus" "$seeds" -- "${flags[@]}" -set_cover_merge=1 -merge_control_file="$work/account"
    choose "$work/account" | while read -r file; do
        cp "$file" "$work/chosen/$(sha1sum <"$file" | cut -c 1-40)"
    done
    rm -f "$seeds"/*
    cp "$work"/chosen/* "$seeds"
    rm -r "$work"
    printf '%s: %s seeds, %s bytes\n' "$target" "$(ls "$seeds" | wc -l)" "$(cat "$seeds"/* | wc -c)"
done
