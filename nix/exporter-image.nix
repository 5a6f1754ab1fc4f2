# The Elasticsearch exporter from nixpkgs, on the same contract as compose/images/elasticsearch-exporter/Dockerfile (path, user, entry
# point, bash and coreutils for health commands). The result writes the image on its output, for `docker load`. Never built so far.
{ pkgs }:
pkgs.dockerTools.streamLayeredImage {
  name = "elasticsearch-exporter";
  tag = "nix";
  contents = [
    pkgs.bash
    pkgs.coreutils
  ];
  extraCommands = ''
    mkdir -p tmp bin
    chmod 1777 tmp
    ln -s ${pkgs.lib.getExe pkgs.prometheus-elasticsearch-exporter} bin/elasticsearch_exporter
  '';
  config = {
    User = "65534";
    Entrypoint = [ "/bin/elasticsearch_exporter" ];
    Env = [ "PATH=/bin" ];
  };
}
