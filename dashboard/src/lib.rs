//! What operators look at: a web page, Grafana boards and alert rules, all generated from the metric names in
//! `zoetrope_protocol::metric`. None of it exists yet; until then `/metrics` is there for Prometheus, and
//! `zoetrope workers`, `jobs` and `why` are there for people.
