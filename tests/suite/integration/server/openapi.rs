//! The `OpenAPI` document: what is published is what the code says.

use serde_json::Value;

use crate::harness::cli::{self, Answer};
use crate::harness::prelude::*;
use crate::harness::server::Server;

/// What is published.
const PUBLISHED: &str = include_str!("../../../../fixtures/openapi.json");

#[apply(test)]
fn what_is_published_is_what_the_code_says(scratch: Scratch) {
    let Answer { code, stdout, stderr } = cli::answer(&scratch, ["openapi"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout == PUBLISHED,
        "review the difference to `cargo run -- openapi > fixtures/openapi.json`"
    );
}

#[apply(test)]
fn the_server_gives_the_same(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let answer = server.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let published: Value = serde_json::from_str(PUBLISHED).expect("JSON");
    assert!(answer.json() == published);
    server.stop();
}

/// A client is told of each operation what it is for and what can come back, and of each problem
/// that it comes in the form of one.
#[apply(test)]
fn each_operation_is_described() {
    let document: Value = serde_json::from_str(PUBLISHED).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object().expect("operations").iter().map(move |(method, of)| (path, method, of))
    });
    let mut count = 0;
    for (path, method, operation) in operations {
        count += 1;
        let what = format!("{method} {path}");
        assert!(operation["summary"].is_string(), "{what} has no summary");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let problem = &response["content"]["application/problem+json"];
            assert_eq!(status.as_str() >= "400", problem.is_object(), "{what}: {status}");
            assert!(response["description"].is_string(), "{what}: {status}");
        }
    }
    assert!(count >= 12, "only {count} operations");
}
