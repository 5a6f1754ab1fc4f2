# Checks of a JSON document by its shape. A check takes a place and a value and returns the mistakes as a list of texts.
# Builtins only: this folder's first check needs the nix program and nothing else.
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    elem
    elemAt
    filter
    genList
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    match
    toJSON
    toString
    ;

  shown =
    value:
    if isAttrs value then
      "an object"
    else if isList value then
      "a list"
    else
      toJSON value;
in
rec {
  be =
    what: ok: at: value:
    if ok value then [ ] else [ "${at}: ${what} belongs here, not ${shown value}" ];

  matches = pattern: value: isString value && match pattern value != null;

  text = be "a text" isString;
  flag = be "true or false" isBool;
  count = be "a whole number above 0" (value: isInt value && value > 0);
  port = be "a port from 1 to 65535" (value: isInt value && value > 0 && value < 65536);
  name = be "a name of lower-case letters, digits and dashes" (matches "[a-z0-9][a-z0-9-]*");
  hex64 = be "64 lower-case hex digits" (matches "[0-9a-f]{64}");

  # The engine would take a relative source for a volume's name, and `..` could leave the project.
  inside = be "a path inside the project, without `..`" (
    value: matches "[^/].*" value && !matches "(.*/)?\\.\\.(/.*)?" value
  );
  # `:` separates source, path and mode in what the engine is given.
  absolute = be "an absolute path without `:`" (matches "/[^:]+");

  orNull =
    check: at: value:
    if value == null then [ ] else check at value;

  listOf =
    check: at: value:
    if isList value then
      concatLists (genList (i: check "${at}[${toString i}]" (elemAt value i)) (length value))
    else
      be "a list" isList at value;

  # An object whose keys are names that somebody chose.
  tableOf =
    key: check: at: value:
    if isAttrs value then
      concatMap (n: key at n ++ check "${at}.${n}" value.${n}) (attrNames value)
    else
      be "an object" isAttrs at value;

  # An object with exactly these keys.
  record =
    fields: at: value:
    if isAttrs value then
      let
        known = attrNames fields;
        given = attrNames value;
      in
      map (n: "${at}: unknown key ${toJSON n}") (filter (n: !elem n known) given)
      ++ map (n: "${at}: the key ${toJSON n} is missing") (filter (n: !elem n given) known)
      ++ concatMap (n: fields.${n} "${at}.${n}" value.${n}) (filter (n: elem n known) given)
    else
      be "an object" isAttrs at value;
}
