//! The OpenAPI document: it says what the code does, all of it, and is the one that is kept beside the documentation.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::process::scanlogin;
use crate::support::reply::Reply;
use crate::support::service::Service;

const KEPT: &str = include_str!("../../docs/openapi.json");

/// What is served beside the contract: pages for people, and what they are made of.
const PAGES: [&str; 13] = [
    "/",
    "/assets/{*path}",
    "/demo/callback",
    "/demo/logout",
    "/demo/profile",
    "/demo/start",
    "/openapi",
    "/openapi.json",
    "/openapi/",
    "/openapi/{file}",
    "/problems",
    "/s/{name}",
    "/web/v1/scan-login.js",
];

/// Each call of the document: its method, its path, and what is said of it.
fn calls(document: &Value) -> Vec<(String, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of_path = paths.flat_map(|(path, calls)| {
        let calls = calls.as_object().unwrap().iter();
        calls.map(move |(method, call)| (method.to_uppercase(), path.as_str(), call))
    });
    of_path.collect()
}

fn kept() -> Value {
    serde_json::from_str(KEPT).unwrap()
}

#[test]
fn the_document_that_is_kept_is_what_the_code_says() {
    let printed = scanlogin().arg("openapi").output().unwrap();
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed == KEPT,
        "docs/openapi.json is not what the code says: cargo run -- openapi > docs/openapi.json"
    );
    assert_eq!(kept()["openapi"], "3.1.0");
}

#[test]
fn nothing_but_pages_is_served_without_being_in_the_document() {
    let routers = [
        include_str!("../../src/http.rs"),
        include_str!("../../src/http/reference.rs"),
    ];
    let undocumented: BTreeSet<&str> = routers
        .iter()
        .flat_map(|router| router.split(".route(\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(undocumented, BTreeSet::from(PAGES));
}

#[test]
fn every_call_of_the_readme_is_in_the_document() {
    let readme = include_str!("../../README.md");
    let table = readme.split("## The HTTP contract").nth(1).unwrap();
    let table = table.split("operators, on a listener").next().unwrap();
    let document = kept();
    let documented: BTreeSet<String> = calls(&document)
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    let named: Vec<String> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|words| {
            let (method, path) = words.split_once(" /")?;
            let path = path.split('?').next()?;
            Some(format!("{method} /{path}"))
        })
        .collect();
    assert!(named.len() >= 10, "the calls are found: {named:?}");
    for call in named {
        assert!(documented.contains(&call), "{call} is not in the document");
    }
}

#[tokio::test]
async fn each_address_takes_the_methods_that_the_document_names_and_no_other() {
    let service = Service::start().await;
    let document = kept();
    let calls = calls(&document);
    let paths: BTreeSet<&str> = calls.iter().map(|(_, path, _)| *path).collect();
    assert!(paths.len() >= 13, "{paths:?}");
    for path in paths {
        let refused = Reply::to(service.call(Method::PATCH, &path.replace(['{', '}'], ""))).await;
        refused.problem(405, "method_not_allowed");
        let allowed: BTreeSet<&str> = refused
            .header("allow")
            .split(',')
            .filter(|word| *word != "HEAD")
            .collect();
        let named = calls.iter().filter(|(_, of, _)| *of == path);
        assert_eq!(allowed, named.map(|(method, ..)| method.as_str()).collect(), "{path}");
    }
}

#[test]
fn every_problem_but_what_meets_any_call_belongs_to_a_call() {
    let document = kept();
    let of_problem = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let mut unnamed: BTreeSet<&str> = of_problem
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(unnamed.len() > 20, "{unnamed:?}");
    for (method, path, call) in calls(&document) {
        for (status, response) in call["responses"].as_object().unwrap() {
            let body = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"];
            assert_ne!(status, "500", "{method} {path} plans to be broken");
            for code in body["code"]["enum"].as_array().into_iter().flatten() {
                assert_eq!(
                    body["status"]["enum"][0].to_string(),
                    *status,
                    "{method} {path}: {code}"
                );
                unnamed.remove(code.as_str().unwrap());
            }
        }
    }
    assert_eq!(unnamed, BTreeSet::from(["internal", "method_not_allowed"]));
}
