"""Configurations of the servers themselves, for one machine with Docker."""

from __future__ import annotations

_HEADER = "# Made by `python -m mccore_telemetry.operations docs/operations`; a test compares it with the code.\n"

PROMETHEUS = (
    _HEADER
    + """\
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: [rules.yaml]
scrape_configs:
  - job_name: mccore
    # Runs write their addresses there: --set telemetry.prometheus.options.targets=DIRECTORY
    file_sd_configs:
      - files: [targets/*.json]
        refresh_interval: 5s
"""
)

COLLECTOR = (
    _HEADER
    + """\
receivers:
  otlp:
    protocols:
      http: {endpoint: "127.0.0.1:4318"}
      grpc: {endpoint: "127.0.0.1:4317"}
exporters:
  otlp/tempo:
    endpoint: 127.0.0.1:4327
    tls: {insecure: true} # the same machine
  prometheus:
    endpoint: 127.0.0.1:8889
    resource_to_telemetry_conversion: {enabled: true} # which run, which rank
  debug: {}
service:
  telemetry:
    metrics: {level: none}
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp/tempo]}
    metrics: {receivers: [otlp], exporters: [prometheus]}
    logs: {receivers: [otlp], exporters: [debug]}
"""
)

TEMPO = (
    _HEADER
    + """\
server: {http_listen_address: 127.0.0.1, http_listen_port: 3200}
distributor:
  receivers:
    otlp:
      protocols:
        grpc: {endpoint: "127.0.0.1:4327"}
storage:
  trace:
    backend: local
    local: {path: /var/tempo/blocks}
    wal: {path: /var/tempo/wal}
"""
)

DATASOURCES = (
    _HEADER
    + """\
apiVersion: 1
datasources:
  - {name: Prometheus, type: prometheus, uid: prometheus, url: "http://127.0.0.1:9090", isDefault: true}
  - {name: Tempo, type: tempo, uid: tempo, url: "http://127.0.0.1:3200"}
"""
)

DASHBOARDS = (
    _HEADER
    + """\
apiVersion: 1
providers:
  - name: mccore
    type: file
    options: {path: /etc/mccore-dashboards}
"""
)

COMPOSE = (
    _HEADER
    + """\
# Prometheus, a collector, Tempo, Grafana, OpenSearch and its Dashboards on this machine, reachable from it alone. Linux:
# the containers use the network of the host, because runs serve their metrics at its loopback address.
name: mccore
services:
  prometheus:
    image: prom/prometheus:v3.5.0
    network_mode: host
    command:
      - --config.file=/etc/prometheus/prometheus.yaml
      - --web.listen-address=127.0.0.1:9090
    volumes:
      - ./prometheus/prometheus.yaml:/etc/prometheus/prometheus.yaml:ro
      - ./prometheus/rules.yaml:/etc/prometheus/rules.yaml:ro
      - ./prometheus/targets:/etc/prometheus/targets:ro
  collector:
    image: otel/opentelemetry-collector-contrib:0.159.0
    network_mode: host
    command: [--config=/etc/collector.yaml]
    volumes: ["./otel-collector.yaml:/etc/collector.yaml:ro"]
  tempo:
    image: grafana/tempo:2.8.1
    network_mode: host
    command: [-config.file=/etc/tempo.yaml]
    volumes: ["./tempo.yaml:/etc/tempo.yaml:ro", "tempo:/var/tempo"]
  grafana:
    image: grafana/grafana:12.1.0
    network_mode: host
    environment:
      GF_SERVER_HTTP_ADDR: 127.0.0.1
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
    volumes:
      - ./grafana/provisioning:/etc/grafana/provisioning:ro
      - ./grafana:/etc/mccore-dashboards:ro
  opensearch:
    image: opensearchproject/opensearch:3.8.0
    network_mode: host
    environment:
      discovery.type: single-node
      network.host: 127.0.0.1
      DISABLE_SECURITY_PLUGIN: "true"
      OPENSEARCH_JAVA_OPTS: -Xms512m -Xmx512m
    volumes: ["opensearch:/usr/share/opensearch/data"]
  dashboards:
    image: opensearchproject/opensearch-dashboards:3.8.0
    network_mode: host
    environment:
      SERVER_HOST: 127.0.0.1
      OPENSEARCH_HOSTS: '["http://127.0.0.1:9200"]'
      DISABLE_SECURITY_DASHBOARDS_PLUGIN: "true"
volumes:
  tempo: {}
  opensearch: {}
"""
)
