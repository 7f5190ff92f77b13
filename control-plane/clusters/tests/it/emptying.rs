//! A bucket is removed with all that is in it: every version of every object, where the server keeps versions.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::Buckets;
use serde_json::json;

use crate::server::{Asked, Clock, Server};

/// What is in the one bucket: key, version, whether it is the mark of a removed object. `None`: the bucket is gone.
type Content = Arc<Mutex<Option<BTreeSet<(String, String, bool)>>>>;

/// Pages are that small here.
const PAGE: usize = 3;

/// All values of an element.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&begin)
        .skip(1)
        .filter_map(|rest| rest.split(&end).next())
        .collect()
}

fn answer(content: &Content, versioned: bool, asked: &Asked) -> (u16, String) {
    let mut content = content.lock().unwrap();
    let Some(there) = content.as_mut() else {
        return (404, "<Error><Code>NoSuchBucket</Code></Error>".to_owned());
    };
    let query = asked.path.split_once('?').map_or("", |(_, query)| query);
    if asked.method == "DELETE" {
        if !there.is_empty() {
            return (409, "<Error><Code>BucketNotEmpty</Code></Error>".to_owned());
        }
        *content = None;
        return (204, String::new());
    }
    if query.contains("delete") {
        for object in values(&asked.body, "Object") {
            let key = values(object, "Key")[0];
            let version = values(object, "VersionId").first().copied().unwrap_or("null");
            there.retain(|(k, v, _)| (k.as_str(), v.as_str()) != (key, version));
        }
        return (200, "<DeleteResult></DeleteResult>".to_owned());
    }
    if query.contains("versions") && !versioned {
        return (501, "<Error><Code>NotImplemented</Code></Error>".to_owned());
    }
    let rows: String = there
        .iter()
        .take(PAGE)
        .map(|(key, version, mark)| match (query.contains("versions"), mark) {
            (false, _) => format!("<Contents><Key>{key}</Key></Contents>"),
            (true, true) => format!("<DeleteMarker><Key>{key}</Key><VersionId>{version}</VersionId></DeleteMarker>"),
            (true, false) => format!("<Version><Key>{key}</Key><VersionId>{version}</VersionId></Version>"),
        })
        .collect();
    let root = if query.contains("versions") {
        "ListVersionsResult"
    } else {
        "ListBucketResult"
    };
    (200, format!("<{root}>{rows}</{root}>"))
}

#[tokio::test]
async fn versions_and_marks_go_too_and_a_service_without_versions_is_emptied_all_the_same() {
    for versioned in [true, false] {
        let mut objects = BTreeSet::new();
        for key in 0..5 {
            objects.insert((format!("packs/{key}"), "null".to_owned(), false));
            if versioned {
                objects.insert((format!("packs/{key}"), "v2".to_owned(), false));
                objects.insert((format!("packs/{key}"), "v3".to_owned(), true));
            }
        }
        let content: Content = Arc::new(Mutex::new(Some(objects)));
        let seen = Arc::clone(&content);
        let server = Server::start(move |asked| answer(&seen, versioned, asked)).await;
        let credentials = json!({ "kind": "static", "access_key_id": "a", "secret_access_key": "b" });
        let buckets = server.buckets(credentials, &Clock::default()).await.unwrap();
        let organization = OrganizationId::generate(1, [7; 10]);
        buckets.remove(organization).await.unwrap();
        assert!(content.lock().unwrap().is_none(), "versions: {versioned}");
        // What is gone is removed.
        buckets.remove(organization).await.unwrap();
    }
}
