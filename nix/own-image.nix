# The own image: the program, on the same contract as compose/images/streamlab/Dockerfile (paths, entry point, bash and
# coreutils for health commands, a /tmp for everybody). The result writes the image on its output, for `docker load`.
{ pkgs, program }:
pkgs.dockerTools.streamLayeredImage {
  name = "streamlab";
  tag = "nix";
  contents = [
    pkgs.bash
    pkgs.coreutils
  ];
  extraCommands = ''
    mkdir -p tmp usr/bin usr/local/bin
    chmod 1777 tmp
    ln -s ${pkgs.lib.getExe pkgs.tini} usr/bin/tini
    ln -s ${pkgs.lib.getExe program} usr/local/bin/streamlab
  '';
  config = {
    Entrypoint = [
      "/usr/bin/tini"
      "--"
      "/usr/local/bin/streamlab"
    ];
    Env = [ "PATH=/usr/local/bin:/usr/bin:/bin" ];
  };
}
