//! `openapi.json` against the routes and against live answers.
