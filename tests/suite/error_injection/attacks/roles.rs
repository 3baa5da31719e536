//! Who is in the socket's group acquires and looks, and administrates nothing.

use serde_json::{Value, json};

use crate::harness::prelude::*;
use crate::harness::server;
use crate::harness::somebody::{FRIENDS, as_somebody, served_to_friends};

#[apply(test)]
#[needs(Root)]
fn the_group_may_not_administrate(scratch: Scratch) {
    let (mut server, run) = served_to_friends(&scratch, |_| {});
    let (base, target) = (server::base(&scratch), server::vms(&scratch).join("vm"));
    let refused = as_somebody(&run, &[FRIENDS], move |client| {
        let mut asked = Vec::new();
        for path in ["/v1/stats", "/v1/bases", "/metrics", "/readyz", "/livez", "/openapi.json"] {
            asked.push((path.to_owned(), client.get(path)?, 200));
        }
        let request = json!({ "base": base, "target": target });
        asked.push(("acquire".to_owned(), client.post("/v1/acquire", &request)?, 200));
        let delete = format!("/v1/bases/{}", base.to_string_lossy().replace('/', "%2F"));
        asked.push(("remove".to_owned(), client.ask("DELETE", &delete, None)?, 403));
        for (path, request) in [
            ("/v1/bases", json!({ "path": base })),
            // Whoever may not do it isn't told what is wrong with it.
            ("/v1/bases", Value::Null),
            ("/v1/drain", Value::Null),
            ("/v1/rescan", Value::Null),
        ] {
            asked.push((path.to_owned(), client.post(path, &request)?, 403));
        }
        Ok(asked)
    });
    for (what, answer, status) in refused.expect("answers") {
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.problem(403), "forbidden", "{what}");
        }
    }
    server.await_ready_overlays(2);
    // This user is the server's own.
    assert_eq!(server.post("/v1/drain", &Value::Null).status, 200);
    assert_eq!(server.post("/v1/rescan", &Value::Null).status, 204);
}
