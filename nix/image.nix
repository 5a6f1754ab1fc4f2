# An upstream image in the store, with its registry digest as the only pin:
#   index --names--> manifest of this platform --names--> config and layers
# Index and manifest are committed as images/<hex>.json, byte for byte as the registry serves them, and held against
# their digests while Nix evaluates. Each config and layer is a derivation of its own whose output hash is its digest.
{
  lib,
  pkgs,
  documents ? ./images,
}:
let
  hexOf = lib.removePrefix "sha256:";
  architecture = pkgs.stdenv.hostPlatform.go.GOARCH;

  # NAME:TAG as Docker understands it: without a host it is Docker Hub's, without a folder there it is in library/.
  locate =
    reference:
    let
      parts = builtins.match "(.+):([^:/]+)" reference;
      path = lib.splitString "/" (builtins.elemAt parts 0);
      hasHost = lib.length path > 1 && builtins.match ".*[.:].*|localhost" (lib.head path) != null;
      host = if hasHost then lib.head path else "docker.io";
      folders = if hasHost then lib.tail path else path;
    in
    {
      tag = builtins.elemAt parts 1;
      repository = lib.concatStringsSep "/" (lib.optional (host == "docker.io" && lib.length folders == 1) "library" ++ folders);
      inherit host;
      server =
        if host == "docker.io" then
          "https://registry-1.docker.io"
        else if lib.hasPrefix "127.0.0.1:" host then
          "http://${host}" # a registry on this machine, for a test
        else
          "https://${host}";
    };

  fetchBlob =
    place: digest:
    pkgs.runCommand (hexOf digest)
      {
        outputHash = digest;
        outputHashMode = "flat";
        nativeBuildInputs = [
          pkgs.curl
          pkgs.jq
          pkgs.cacert
        ];
        impureEnvVars = lib.fetchers.proxyImpureEnvVars;
        preferLocalBuild = true;
        address = "${place.server}/v2/${place.repository}/blobs/${digest}";
        scope = "repository:${place.repository}:pull";
      }
      ''
        ask() { curl -sSL --retry 5 --connect-timeout 20 "$@"; }

        # A registry that wants a token says so, and where to get one.
        wanted=$(ask --head -o /dev/null -w '%header{www-authenticate}' "$address")
        part() { printf '%s' "$wanted" | sed -n "s/.*$1=\"\([^\"]*\)\".*/\1/p"; }
        bearer=()
        if [ -n "$(part realm)" ]; then
          token=$(ask --fail --get --data-urlencode "service=$(part service)" --data-urlencode "scope=$scope" \
            "$(part realm)" | jq -er '.token // .access_token')
          # Not a header of our own: curl keeps this one from the host that a registry redirects to.
          bearer=(--oauth2-bearer "$token")
        fi
        ask --fail "''${bearer[@]}" -o "$out" "$address"
      '';

  document =
    digest:
    let
      committed = documents + "/${hexOf digest}.json";
      found = "sha256:${builtins.hashFile "sha256" committed}";
      text = builtins.readFile committed;
    in
    # A flake sees only what git tracks.
    if !builtins.pathExists committed then
      throw "nix/images/${hexOf digest}.json is not there: ./lab images lock && git add nix/images"
    else if found != digest then
      throw "nix/images/${hexOf digest}.json has the digest ${found}: it was edited or reformatted"
    else
      {
        inherit digest;
        file = committed;
        content = builtins.fromJSON text;
        size = builtins.stringLength text;
      };
in
{ reference, index }:
let
  place = locate reference;
  top = document index;
  mine = lib.findFirst (
    m: (m.platform.os or "") == "linux" && (m.platform.architecture or "") == architecture
  ) (throw "${reference} has no image for linux/${architecture}") top.content.manifests;
  # A tag may name a single manifest: then that is the index.
  manifest = if top.content ? manifests then document mine.digest else top;
  blobs = [ manifest.content.config ] ++ manifest.content.layers;
  pathOf = digest: "blobs/sha256/${hexOf digest}";
  # OCI lets a document leave its type out.
  kind = if top.content ? manifests then "index" else "manifest";
  json = name: value: pkgs.writeText name (builtins.toJSON value);

  # Both an OCI layout, for the containerd image store, and what `docker save` writes, for the older one. It names the
  # index, so that NAME:TAG@INDEX is found without a network; manifests of other platforms may be absent.
  layout = pkgs.linkFarm "streamlab-image-${lib.replaceStrings [ "/" ":" ] [ "-" "-" ] reference}" (
    {
      "oci-layout" = json "oci-layout" { imageLayoutVersion = "1.0.0"; };
      "index.json" = json "index.json" {
        schemaVersion = 2;
        manifests = [
          {
            mediaType = top.content.mediaType or "application/vnd.oci.image.${kind}.v1+json";
            inherit (top) digest size;
            annotations = {
              "io.containerd.image.name" = "${place.host}/${place.repository}:${place.tag}";
              "org.opencontainers.image.ref.name" = place.tag;
            };
          }
        ];
      };
      "manifest.json" = json "manifest.json" [
        {
          Config = pathOf manifest.content.config.digest;
          RepoTags = [ reference ];
          Layers = map (l: pathOf l.digest) manifest.content.layers;
        }
      ];
      ${pathOf top.digest} = top.file;
    }
    # The same one where the tag names a single manifest.
    // {
      ${pathOf manifest.digest} = manifest.file;
    }
    // lib.listToAttrs (map (b: lib.nameValuePair (pathOf b.digest) (fetchBlob place b.digest)) blobs)
  );
in
# Writes the image on its output: no second copy in the store.
pkgs.writeShellScript "stream-image" ''
  exec ${pkgs.gnutar}/bin/tar --dereference --directory ${layout} --create --file - .
''
