#!/usr/bin/env bash
# modules.sh STUB [NIX]: evaluates the modules with a stand-in for nixpkgs and holds what they declare against
# expected.jq. Each container's start script is run with a docker that only writes down its arguments. With
# IMAGES_IN_STORE=DOCUMENTS also images = store. Needs nix-instantiate and jq.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stub=$(cd "$1" && pwd)
nix=$(cd "${2:-$here/..}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/bin"
cat >"$work/bin/docker" <<'DOCKER'
#!/bin/sh
exec jq -cn '$ARGS.positional' --args -- "$@"
DOCKER
chmod +x "$work/bin/docker"

# evaluate MODULE EXTRA
evaluate() {
  nix-instantiate --eval --strict --json "$here/modules.nix" --arg stub "$stub" --arg nix "$nix" \
    --argstr module "$1" --arg extra "$2"
}

# same WHAT ACTUAL EXPECTED: two JSON texts
same() {
  [ "$(jq -Sc . <<<"$2")" = "$(jq -Sc . <<<"$3")" ] && return
  echo "$1 differs:" >&2
  diff <(jq -S . <<<"$2") <(jq -S . <<<"$3") | head -n 12 >&2
  exit 1
}

# hold MODULE EXTRA STORE ADDRESS
hold() {
  local actual expected name argv
  actual=$(evaluate "$1" "$2")
  expected=$(jq --argjson store "$3" --arg address "$4" -f "$here/expected.jq" "$nix/topology.json")
  same "$1: the units" "$(jq '.units | keys' <<<"$actual")" "$(jq .units <<<"$expected")"
  for name in $(jq -r '.services | keys[]' <<<"$expected"); do
    argv=$(PATH=$work/bin:$PATH bash -ec "$(jq -r --arg n "docker-$name" '.units[$n].script' <<<"$actual")")
    # The folder of add-ons has a name made of a hash.
    argv=$(jq -c 'map(sub("^/nix/store/[^/]*-streamlab-addons/"; "ADDONS/"))' <<<"$argv")
    same "$1: docker's arguments for $name" "$argv" "$(jq --arg n "$name" '.services[$n].argv' <<<"$expected")"
    same "$1: the unit of $name" "$(jq --arg n "docker-$name" '.units[$n] as $u | {
        requires: ($u.requires | sort),
        waits: ($u.postStart | test("State.Health.Status")),
        once: ($u.serviceConfig.Type == "oneshot" and $u.serviceConfig.RemainAfterExit
          and $u.serviceConfig.Restart == "on-failure"),
        deadline: (if $u.postStart == "" then $u.serviceConfig.TimeoutStartSec
          else ($u.postStart | capture("patience=(?<s>[0-9]+)").s | tonumber) end)
      }' <<<"$actual")" "$(jq --arg n "$name" '.services[$n] | {requires, waits, once, deadline}' <<<"$expected")"
    jq -e --arg n "docker-$name" '.units[$n] | (.requires - .after) == [] and .unitConfig.StartLimitBurst == 5
      and .serviceConfig.RestartMode == "direct" and .onFailure == ["streamlab-failed@%N.service"]
      and (.serviceConfig.Restart == (if .serviceConfig.Type == "oneshot" then "on-failure" else "always" end))' <<<"$actual" >/dev/null ||
      { echo "$1: the order or the tries of $name" >&2; exit 1; }
  done
  for name in $(jq -r '.images | keys[]' <<<"$expected"); do
    same "$1: the image $name" "$(jq --arg n "streamlab-image-$name" '.units[$n].script
        | if test("docker pull") then "pull \(capture("pull --quiet (?<r>[^ \n]+)").r)"
          elif test("image inspect") then "load \(capture("image inspect (?<r>[^ \n]+)").r)" else "load" end' <<<"$actual")" \
      "$(jq --arg n "$name" '.images[$n]' <<<"$expected")"
  done
  same "$1: the ready unit" "$(jq '.units["streamlab-ready"].requires | sort' <<<"$actual")" \
    "$(jq '[.services | keys[] | "docker-\(.).service"] | sort' <<<"$expected")"
  same "$1: the engine's settings" "$(jq .docker <<<"$actual")" \
    "$(jq -n --argjson s "$3" 'if $s then {features: {"containerd-snapshotter": true}} else {} end')"
  same "$1: what dhcpcd leaves alone" "$(jq .dhcpcd.denyInterfaces <<<"$actual")" '["veth*", "br-*", "docker*"]'
  same "$1: ports that no connection gets" "$(jq -c '.reserved | split(",") | map(tonumber)' <<<"$actual")" \
    "$(jq '.vm.forwards | map(select(. >= 32768))' <<<"$expected")"
  if [ "$1" = vm ]; then
    same "the VM's network" "$(jq .dhcpcd.allowInterfaces <<<"$actual")" '["eth0"]'
    same "the VM" "$(jq '.vm | {cores, diskSize, memorySize, forwards: [.forwardPorts[]
        | select(.from == "host" and .proto == "tcp" and .host.address == "127.0.0.1" and .guest.port == .host.port)
        | .host.port] | sort}' <<<"$actual")" "$(jq .vm <<<"$expected")"
  fi
  echo "$1, images from the $([ "$3" = true ] && echo store || echo registry): as expected," \
    "$(jq '.services | length' <<<"$expected") containers, $(jq '.units | length' <<<"$expected") units"
}

hold vm '{ }' false 0.0.0.0
hold lab '{ }' false 127.0.0.1
[ -z "${IMAGES_IN_STORE:-}" ] ||
  hold lab "{ services.streamlab = { images = \"store\"; imageDocuments = $IMAGES_IN_STORE; }; }" true 127.0.0.1
