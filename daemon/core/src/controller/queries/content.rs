//! What questions hold, as clients write it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::controller::ErrorContent;
use crate::ids::MsgId;
use crate::task_db::query::Find;

#[derive(Deserialize)]
pub(super) struct QueueRequest {
    #[serde(default)]
    pub(super) targets: Targets,
    #[serde(default)]
    pub(super) verbose: bool,
}

/// Engines by number or uuid. Stock clients send null for all, one, or a list.
#[derive(Default, Deserialize)]
#[serde(from = "Value")]
pub(super) enum Targets {
    #[default]
    All,
    Some(Vec<Value>),
}

impl From<Value> for Targets {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::All,
            Value::Array(targets) => Self::Some(targets),
            one => Self::Some(vec![one]),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ResultRequest {
    pub(super) msg_ids: Vec<MsgId>,
    #[serde(default)]
    pub(super) status_only: bool,
}

#[derive(Deserialize)]
pub(super) struct PurgeRequest {
    #[serde(default)]
    pub(super) msg_ids: Option<Value>,
    #[serde(default)]
    pub(super) engine_ids: Option<Targets>,
}

#[derive(Deserialize)]
pub(super) struct ResubmitRequest {
    pub(super) msg_ids: Vec<MsgId>,
}

#[derive(Deserialize)]
pub(super) struct DaskRequest {
    #[serde(default)]
    pub(super) scheduler_args: Option<Box<RawValue>>,
}

pub(super) fn read<T: DeserializeOwned>(content: &[u8]) -> Result<T, ErrorContent> {
    serde_json::from_slice(content).map_err(|cause| {
        ErrorContent::new("ValueError", format!("unreadable request content: {cause}"))
    })
}

pub(super) fn find(content: &[u8]) -> Result<Find, ErrorContent> {
    Find::parse(content).map_err(|cause| ErrorContent::new(cause.ename(), cause.to_string()))
}
