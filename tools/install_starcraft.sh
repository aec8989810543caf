#!/usr/bin/env bash
# StarCraft II 4.10 for Linux and SMAC's maps into $SC2PATH. Says what it is going to download before it does.
#
#   tools/install_starcraft.sh [--to FOLDER] [--maps-only] [--yes] [--check] [--game FILE_OR_URL] [--maps FILE_OR_URL]
#
#   --to FOLDER   where the game is or goes; default $SC2PATH, or ~/StarCraftII
#   --maps-only   leave the game alone
#   --check       download nothing: say what is there and what is missing
#   --yes         do not ask; you accept Blizzard's license (below)
#   --game, --maps  take the archive from another place, such as a file that was copied to a machine without network
#
# What is there and right is kept. An interrupted download goes on where it was. Exit codes: 0 everything is there,
# 2 usage or refused, 65 an archive or a map is not what it should be, 69 something is missing, 73 no room or cannot write.
set -euo pipefail

BUILD=75689
GAME=https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip
GAME_SHA256=1052f249f30a242bf5e17cc3315324919f9689307ca6dbcdb30bb41ea3004884 # as nixpkgs' sc2-headless has it
COMMIT=d6aab33f76abc3849c50463a8592a84f59a5ef84
MAPS=https://github.com/oxwhirl/smac/archive/$COMMIT.tar.gz
LICENSE=https://blzdistsc2-a.akamaihd.net/AI_AND_MACHINE_LEARNING_LICENSE.html
PASSWORD=iagreetotheeula # Blizzard's way of asking whether the license is accepted
UNKNOWN_GAME=$((5 * 1024 ** 3)) UNKNOWN_MAPS=$((100 * 1024 ** 2)) # assumed of an archive whose server does not tell
HASHES=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/dm2core/env/smac/maps.sha256

fail() {
    echo "install_starcraft: $2" >&2
    exit "$1"
}

to=${SC2PATH:-$HOME/StarCraftII} maps_only=no yes=no check=no
while (($#)); do
    case $1 in
    --to | --game | --maps)
        (($# > 1)) || fail 2 "$1 needs a value"
        case $1 in --to) to=$2 ;; --game) GAME=$2 ;; --maps) MAPS=$2 ;; esac
        shift 2
        ;;
    --maps-only) maps_only=yes && shift ;;
    --yes) yes=yes && shift ;;
    --check) check=yes && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit ;;
    *) fail 2 "unknown option $1; --help lists them" ;;
    esac
done
[[ $to = /* ]] || to=$PWD/$to
[[ -f $HASHES ]] || fail 2 "$HASHES is not there; run the script of a complete checkout"
binary=$to/Versions/Base$BUILD/SC2_x64

# Names of the maps in $1 (a folder Maps) that are missing or are not SMAC's, one a line.
wrong_maps() {
    (cd "$1" 2>/dev/null && sha256sum --check --quiet --strict "$HASHES" 2>/dev/null || true) |
        sed -n 's|^SMAC_Maps/\(.*\)\.SC2Map: .*|\1|p'
    [[ -d $1 ]] || sed 's|.*/\(.*\)\.SC2Map|\1|' "$HASHES"
}

other_versions() {
    local found=()
    for folder in "$to"/Versions/Base*; do
        [[ -d $folder && $folder != "$to/Versions/Base$BUILD" ]] && found+=("${folder##*/}")
    done
    echo "${found[*]}"
}

size_of() { # bytes of a file or of what a URL answers with; 0 if unknown
    if [[ $1 = *://* ]]; then
        curl -sIL --max-time 20 "$1" | tr -d '\r' | awk 'tolower($1) == "content-length:" {n = $2} END {print n + 0}'
    else
        stat -c %s "$1"
    fi
}

in_gb() { awk -v bytes="$1" 'BEGIN {printf "%.1f GB", bytes / 1e9}'; }

get() { # $1 file or URL -> $2
    if [[ $1 = *://* ]]; then
        local code=0
        curl -fL --retry 3 -C - -o "$2.part" "$1" || code=$?
        if ((code == 33)); then # this server cannot go on in the middle
            code=0
            rm -f "$2.part"
            curl -fL --retry 3 -o "$2.part" "$1" || code=$?
        fi
        ((code == 0)) || fail 69 "$1 cannot be downloaded; run again to go on, or give a copy of it"
        mv "$2.part" "$2"
    else
        ln -sf "$(realpath "$1")" "$2"
    fi
}

need_game=no need_maps=no
missing=$(wrong_maps "$to/Maps")
[[ $maps_only = yes || -f $binary ]] || need_game=yes
[[ -z $missing ]] || need_maps=yes

echo "StarCraft II 4.10 (Base$BUILD) in $to: $([[ -f $binary ]] && echo there || echo missing)"
others=$(other_versions)
[[ -z $others ]] || echo "other versions there: $others (SMAC's numbers need Base$BUILD; the newest is what SMAC starts)"
echo "SMAC's maps in $to/Maps/SMAC_Maps: $([[ -z $missing ]] && echo there, byte for byte || echo "missing or changed: ${missing//$'\n'/ }")"
if [[ -f $binary && ! -x $binary ]]; then
    [[ $check = no ]] || fail 69 "$binary may not be executed: chmod +x $binary"
    chmod +x "$binary" || fail 73 "$binary may not be executed, and that cannot be changed"
    echo "made executable: $binary"
fi
[[ $need_game$need_maps != nono ]] || exit 0
[[ $check = no ]] || fail 69 "not complete; run this without --check"

tools=(sha256sum curl tar)
[[ $need_game = no ]] || tools+=(unzip)
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || fail 69 "$tool is not installed; install it first"
done
[[ $need_game = no || $(uname -sm) = "Linux x86_64" ]] || fail 69 "the package is for Linux on x86_64, this is $(uname -sm)"

game_bytes=0 maps_bytes=0
echo "going to download:"
for what in game maps; do
    eval "needed=\$need_$what" && [[ $needed = yes ]] || continue
    source=$([[ $what = game ]] && echo "$GAME" || echo "$MAPS")
    [[ $source = *://* || -f $source ]] || fail 2 "$source: no such file"
    bytes=$(size_of "$source") || bytes=0
    told=$([[ $bytes -gt 0 ]] && in_gb "$bytes" || echo "size unknown")
    echo "  $source ($told)"
    [[ $bytes -gt 0 ]] || bytes=$([[ $what = game ]] && echo "$UNKNOWN_GAME" || echo "$UNKNOWN_MAPS")
    eval "${what}_bytes=\$bytes"
done
mkdir -p "$to" 2>/dev/null && [[ -w $to ]] || fail 73 "$to cannot be written"
room=$(df -PB1 "$to" | awk 'NR == 2 {print $4}')
needed=$(((game_bytes + maps_bytes) * 5 / 2)) # the archive, its contents, and some more
echo "needs about $(in_gb "$needed") in $to while it works; free: $(in_gb "$room")"
((room >= needed)) || fail 73 "not enough room in $to; --to names another folder"
if [[ $need_game = yes ]]; then
    echo "Blizzard's license applies: $LICENSE"
fi
if [[ $yes = no ]]; then
    [[ -t 0 ]] || fail 2 "nobody to ask; --yes downloads$([[ $need_game = no ]] || echo " and accepts Blizzard's license")"
    read -r -p "Go on$([[ $need_game = no ]] || echo ", and accept the license")? [y/N] " answer
    [[ $answer = [yY]* ]] || fail 2 "nothing was downloaded"
fi

work=$to/.install
mkdir -p "$work"
rm -rf "$work/game" "$work/maps" "$work/all" # left by a run that was stopped; a partial download is kept
if [[ $need_game = yes ]]; then
    [[ -f $work/game.zip ]] || get "$GAME" "$work/game.zip"
    echo "$GAME_SHA256  $work/game.zip" | sha256sum --check --quiet --status || {
        found=$(sha256sum "$work/game.zip" | cut -d' ' -f1)
        rm -rf "$work"
        fail 65 "$GAME has SHA-256 $found, not $GAME_SHA256; it is another version or damaged, get it again"
    }
    # Some empty entries of Cache/TMP cannot be unpacked by unzip, and the game does without them.
    mkdir "$work/game"
    unzip -q -P "$PASSWORD" "$work/game.zip" -d "$work/game" -x 'StarCraftII/Battle.net/Cache/TMP/*' ||
        fail 73 "the game's archive cannot be unpacked in $to"
    [[ -f $work/game/StarCraftII/Versions/Base$BUILD/SC2_x64 ]] ||
        fail 65 "the archive holds no StarCraftII/Versions/Base$BUILD/SC2_x64"
    chmod +x "$work/game/StarCraftII/Versions/Base$BUILD/SC2_x64"
    cp -al "$work/game/StarCraftII/." "$to/" 2>/dev/null || cp -a "$work/game/StarCraftII/." "$to/"
    rm -rf "$work/game" "$work/game.zip"
    missing=$(wrong_maps "$to/Maps")
fi
if [[ -n $missing ]]; then
    [[ -f $work/maps.tar.gz ]] || get "$MAPS" "$work/maps.tar.gz"
    mkdir -p "$work/maps/SMAC_Maps" "$work/all"
    if ! tar -xzf "$work/maps.tar.gz" -C "$work/all"; then
        rm -rf "$work"
        fail 65 "the maps' archive is damaged; run again"
    fi
    find "$work/all" -name '*.SC2Map' -path '*/SMAC_Maps/*' -exec cp {} "$work/maps/SMAC_Maps" \;
    bad=$(wrong_maps "$work/maps")
    if [[ -n $bad ]]; then
        rm -rf "$work"
        fail 65 "not SMAC's maps at commit ${COMMIT:0:8}, byte for byte: ${bad//$'\n'/ }; nothing was installed of them"
    fi
    mkdir -p "$to/Maps/SMAC_Maps"
    cp "$work"/maps/SMAC_Maps/*.SC2Map "$to/Maps/SMAC_Maps/"
fi
rm -rf "$work"
echo "done; now: export SC2PATH=$(printf %q "$to")"
