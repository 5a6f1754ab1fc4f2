# What image.nix makes of a reference whose documents lie in `documents`: the paths in the image's archive, and its index.json. Of
# nixpkgs it has no more than what image.nix asks for, made of builtins.
{
  documents,
  reference,
  index,
}:
let
  inherit (builtins)
    concatStringsSep
    elemAt
    filter
    head
    isString
    length
    listToAttrs
    replaceStrings
    split
    stringLength
    substring
    tail
    ;
  lib = {
    inherit
      concatStringsSep
      head
      length
      listToAttrs
      replaceStrings
      tail
      ;
    optional = condition: value: if condition then [ value ] else [ ];
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix = prefix: text: substring (stringLength prefix) (-1) text;
    nameValuePair = name: value: { inherit name value; };
    splitString = _: text: filter isString (split "/" text);
    findFirst =
      fits: otherwise: list:
      let
        found = filter fits list;
      in
      if found == [ ] then otherwise else elemAt found 0;
    fetchers.proxyImpureEnvVars = [ ];
  };
  pkgs = {
    stdenv.hostPlatform.go.GOARCH = "amd64";
    curl = "";
    jq = "";
    cacert = "";
    gnutar = "";
    runCommand = name: _: _: name;
    writeText = _: text: text;
    linkFarm = _: entries: builtins.toJSON entries;
    writeShellScript = _: text: text;
  };
  text = import ../image.nix { inherit lib pkgs documents; } { inherit reference index; };
  entries = elemAt (builtins.match ".*--directory (.*) --create.*" (replaceStrings [ "\n" ] [ "" ] text)) 0;
in
builtins.fromJSON entries
