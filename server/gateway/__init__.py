"""The one open port: TLS, certificates, node keys, limits for each site. Forwards to Flower on loopback."""
