//! A whole extension service: answers a device's `kp1/<version>/echo/<token>/json[/<id>]` with what it sent.
//!
//! It joins a running platform by itself: the gateway learns of it from its registration. `NATS_URL` says where.

use std::process::ExitCode;
use std::sync::Arc;

use extension::{Extension, Json, Refusal, Routes};
use serde_json::Value;

#[derive(Default)]
struct Echo;

impl Extension for Echo {
    const NAME: &'static str = "echo";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.on("json", Echo::json)
    }
}

impl Echo {
    async fn json(self: Arc<Self>, Json(sample): Json<Value>) -> Result<Json<Value>, Refusal> {
        if sample.is_null() {
            return Err(Refusal::bad_request("a sample may not be null"));
        }
        Ok(Json(sample))
    }
}

fn main() -> ExitCode {
    extension::main::<Echo>()
}
