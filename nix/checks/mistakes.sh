#!/usr/bin/env bash
# mistakes.sh [STUB]: plants one mistake at a time in a copy of nix/ and says whether it was caught. Without STUB only
# those of mistakes.json, by containers.nix alone; with it also those below, in the code, by modules.sh. Needs
# nix-instantiate and jq.
# shellcheck disable=SC2016 # what looks like shell expansion in single quotes is Nix
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stub=${1:+$(cd "$1" && pwd)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
planted=0 missed=0

# A fresh copy, without the mistake before.
fresh() { rm -rf "$work/nix"; cp -r "$here/.." "$work/nix"; planted=$((planted + 1)); }
caught() { printf 'caught  %s\n        %s\n' "$1" "$2"; }
missed() { printf 'MISSED  %s\n        %s\n' "$1" "$2"; missed=$((missed + 1)); }

# evaluate [ARGUMENTS]
evaluate() {
  { nix-instantiate --eval --strict --json -E "import $work/nix/containers.nix { ${1:-} }" >/dev/null; } 2>&1
}

fresh
evaluate >/dev/null || { echo "topology.json itself is refused:"; evaluate; exit 1; }
planted=0

while read -r mistake; do
  name=$(jq -r .name <<<"$mistake") says=$(jq -r .says <<<"$mistake")
  fresh
  jq --argjson m "$mistake" 'if $m.remove then delpaths([$m.path]) else setpath($m.path; $m.value) end' \
    "$here/../topology.json" >"$work/nix/topology.json"
  if answer=$(evaluate); then missed "$name" "accepted"
  elif grep -qF -- "$says" <<<"$answer"; then caught "$name" "$says"
  else missed "$name" "$(tail -n 3 <<<"$answer")"
  fi
done < <(jq -c '.[]' "$here/mistakes.json")

fresh
if answer=$(evaluate 'lab = "nowhere";'); then missed "an unknown lab is asked for" "accepted"
else caught "an unknown lab is asked for" "$(grep -o 'there is no lab nowhere.*' <<<"$answer" | head -n 1)"
fi

# code NAME FILE SED: a mistake in one of our own files.
code() {
  fresh
  sed -i "$3" "$work/nix/$2"
  if cmp -s "$work/nix/$2" "$here/../$2"; then missed "$1" "the mistake was not planted: $2 has changed"; return; fi
  if answer=$("$here/modules.sh" "$stub" "$work/nix" 2>&1); then missed "$1" "accepted"
  else caught "$1" "$(grep -m 1 -E 'differs|^ *error: [^w]|order or the tries|refuses|is no unit' <<<"$answer" | cut -c 1-150)"
  fi
}

if [ -n "$stub" ]; then
  "$here/modules.sh" "$stub" >/dev/null || { echo "the modules themselves, without a mistake, are refused"; exit 1; }
  code "host and container port swapped" containers.nix 's/toString p.host}:${toString p.container/toString p.container}:${toString p.host/'
  code "a misspelt option of a container" containers.nix 's/    networks = \[/    network = [/'
  code "needs dropped" containers.nix 's/dependsOn = service.needs/dependsOn = [ ]/'
  code "a pull policy that does not exist" containers.nix 's/pull = "never"/pull = "nevr"/'
  code "an option of Podman" containers.nix 's/    pull = "never";/    pull = "never"; podman = { user = "root"; };/'
  code "the image not pinned" containers.nix 's/if image.own then/if true then/'
  code "mounts writable" containers.nix 's/m.path}:ro"/m.path}"/'
  code "health words not quoted" containers.nix 's/map quote service.health/service.health/'
  code "the memory limit dropped" containers.nix '/"--memory=/d'
  code "one-shots removed when they end" containers.nix 's/autoRemoveOnStop = .*/autoRemoveOnStop = true;/'
  code "the address fixed" containers.nix 's/${address}:/127.0.0.1:/'
  code "a misspelt option of a unit" lab.nix 's/  postStart = waitForHealth/  postStrt = waitForHealth/'
  code "the wait for health dropped" lab.nix '/postStart = waitForHealth name service;/d'
  code "one-shots restart always" lab.nix 's/Restart = lib.mkForce "on-failure";/Restart = lib.mkForce "always";/'
  code "one-shots not as one-shots" lab.nix 's/if service.completes then/if false then/'
  code "the choice of oci-containers not overridden" lab.nix 's/lib.mkForce "on-failure"/"on-failure"/'
  code "the network not required" lab.nix '/"streamlab-network.service"/d'
  code "the image not required" lab.nix '/"streamlab-image-${service.image}.service"/d'
  code "a unit under another name" lab.nix 's/"docker-${n}" (containerUnit/"docker_${n}" (containerUnit/'
  code "a name that is no unit's" lab.nix 's/"streamlab-network.service"/"streamlab-net.service"/'
  code "a unit's name without .service" lab.nix 's/"streamlab-network.service"/"streamlab-network"/'
  code "the tries not bounded" lab.nix '/StartLimitBurst = 5;/d'
  code "failed tries seen by those that wait" lab.nix '/RestartMode = "direct";/d'
  code "the other image store where images are pulled" lab.nix 's/cfg.images == "store") {/cfg.images == "registry") {/'
  code "the engine's settings misplaced" lab.nix 's/virtualisation.docker.daemon.settings/virtualisation.docker.settings/'
  code "a service that ends with 0 stays down" lab.nix 's/serviceConfig.Restart = lib.mkForce "always";/serviceConfig.Restart = lib.mkForce "on-failure";/'
  code "a failure that nobody is told of" lab.nix '/{ inherit onFailure; }/d'
  code "ports left to outgoing connections" lab.nix 's/port >= 32768/port >= 60000/'
  code "Docker's interfaces left to dhcpcd" lab.nix '/"veth\*"/d'
  code "the VM's dhcpcd on every interface" vm.nix '/allowInterfaces = /d'
  code "a function of lib misspelt" lab.nix "s/lib.mapAttrs'/lib.mapAttr'/"
  code "the VM's memory misspelt" vm.nix 's/memorySize = lib/memory = lib/'
  code "the VM's memory too small" vm.nix 's/mkDefault lab.vm.memoryMiB/mkDefault 4096/'
  code "the VM's memory as a text" vm.nix 's/lib.mkDefault lab.vm.memoryMiB/"12G"/'
  code "forwards on every address" vm.nix '/address = "127.0.0.1";/d'
  code "forwards of the wrong shape" vm.nix 's/guest = { inherit port; };/guest = port;/'
  code "the VM publishes on its loopback" vm.nix '/address = "0.0.0.0";/d'
  code "add-ons without their folder" addons.nix 's/streamlab-addons/addons/'
fi

echo "$planted planted, $missed missed"
[ "$missed" = 0 ]
