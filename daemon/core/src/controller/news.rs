//! What clients are told of engines: one came, or went.
//!
//! A client asks for the engines that are there, and then subscribes to news of others. What happens between the two
//! it would never learn, so whoever subscribes is told once more what has changed lately. News that it knows change
//! nothing for a client.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::json;

use super::{Command, Controller, compose};
use crate::channel::Channel;
use crate::clock::Now;
use crate::ids::{EngineId, EngineUuid, PeerId};
use crate::limits::{NEWS_KEPT, NEWS_MAX};
use crate::scheduler::Scheme;
use crate::wire::frames::Frames;

/// What changed lately, the oldest first.
#[derive(Debug, Default)]
pub(super) struct News(VecDeque<(Duration, Change)>);

#[derive(Clone, Debug)]
struct Change {
    id: EngineId,
    uuid: EngineUuid,
    came: bool,
}

impl News {
    fn add(&mut self, now: Duration, change: Change) {
        self.forget_old(now);
        if self.0.len() >= NEWS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, change));
    }

    fn forget_old(&mut self, now: Duration) {
        while self.0.front().is_some_and(|(at, _)| *at + NEWS_KEPT < now) {
            self.0.pop_front();
        }
    }

    /// The last that happened to each engine.
    fn last(&mut self, now: Duration) -> Vec<Change> {
        self.forget_old(now);
        let mut seen = BTreeSet::new();
        let newest_first = self.0.iter().rev().map(|(_, change)| change);
        let mut last: Vec<Change> = newest_first
            .filter(|change| seen.insert(change.id))
            .cloned()
            .collect();
        last.reverse();
        last
    }
}

impl Controller {
    pub(super) fn engine_came(&mut self, now: Now, id: EngineId, uuid: EngineUuid) {
        let came = true;
        self.publish_news(now, Change { id, uuid, came });
    }

    pub(super) fn engine_went(&mut self, now: Now, id: EngineId, uuid: EngineUuid) {
        let came = false;
        self.publish_news(now, Change { id, uuid, came });
    }

    /// Tells a new subscriber what it may have missed: once, for it is much in answer to little.
    pub(super) fn repeat_news(&mut self, now: Now, peer: PeerId) {
        if !self.peers.subscribes_first(peer) {
            return;
        }
        // To a client of this scheme, each engine that goes means the end of its load-balanced views.
        let only_came = self.config.scheduler.scheme == Scheme::Pure;
        for change in self.news.last(now.monotonic) {
            if change.came || !only_came {
                let frames = self.notification(now, &change);
                self.commands.push_back(Command::Send { peer, frames });
            }
        }
    }

    fn publish_news(&mut self, now: Now, change: Change) {
        let frames = self.notification(now, &change);
        self.news.add(now.monotonic, change);
        self.commands.push_back(Command::Publish {
            channel: Channel::Notification,
            frames,
        });
    }

    fn notification(&mut self, now: Now, change: &Change) -> Frames {
        let msg_type = match change.came {
            true => "registration_notification",
            false => "unregistration_notification",
        };
        let content = compose::json(&json!({ "id": change.id, "uuid": change.uuid }));
        let frames = self.composer.message(now, msg_type, None, "{}", content);
        frames.into()
    }
}
