//! Why the scheduler ends a task itself, and how it tells the user.

use std::time::Duration;

use super::request::RequestError;
use crate::ids::{EngineUuid, MsgId};

/// Why a task ended without a reply from an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its engine left the pool while it ran, and no retry was left.
    EngineDied(EngineUuid),
    /// What it asks for can't happen any more.
    ImpossibleDependency(Impossible),
    /// It names a task that can't be waited for.
    InvalidDependency(Invalid),
    /// Its metadata can't be read.
    InvalidRequest(RequestError),
    /// The scheduler holds as many tasks, or dependencies between them, as it may.
    QueueFull,
    /// It waited longer than its `timeout`.
    TaskTimeout(Duration),
}

/// Why a dependency names a task that can't be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The task waits for itself.
    Itself,
    /// No such task.
    Unknown {
        /// The id it waits for.
        id: MsgId,
        /// Have ended tasks been forgotten yet; if so this may have been one.
        forgotten: bool,
    },
}

/// Why what a task asks for can't happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// Tasks it waits for ended the other way than it wants. The last of them, if known.
    EndedOtherwise(Option<MsgId>),
    /// The engine that ran the tasks to follow is gone, or no engine ever ran them.
    FollowedGone,
    /// The tasks to follow ran on more than one engine.
    FollowedScattered,
    /// The tasks to follow ran on engines that are not among the targets.
    FollowedElsewhere,
    /// None of the targets is registered.
    NoTarget,
    /// Every engine that may run it has refused it (`UnmetDependency`).
    Refused,
}

impl Failure {
    /// The class that a client sees: `content.ename` of the reply.
    #[must_use]
    pub fn ename(&self) -> &'static str {
        match self {
            Self::EngineDied(_) => "EngineError",
            Self::ImpossibleDependency(_) => "ImpossibleDependency",
            Self::InvalidDependency(_) => "InvalidDependency",
            Self::InvalidRequest(_) => "ValueError",
            Self::QueueFull => "TaskRejectError",
            Self::TaskTimeout(_) => "TaskTimeout",
        }
    }

    /// The engine to blame, if there is one.
    #[must_use]
    pub fn engine(&self) -> Option<&EngineUuid> {
        match self {
            Self::EngineDied(uuid) => Some(uuid),
            Self::ImpossibleDependency(_)
            | Self::InvalidDependency(_)
            | Self::InvalidRequest(_)
            | Self::QueueFull
            | Self::TaskTimeout(_) => None,
        }
    }

    /// The cause in one line: `content.evalue` of the reply.
    #[must_use]
    pub fn evalue(&self, task: &MsgId) -> String {
        match self {
            Self::EngineDied(uuid) => {
                format!("Engine b'{uuid}' died while running task '{task}'")
            }
            Self::ImpossibleDependency(why) => why.cause(),
            Self::InvalidDependency(Invalid::Itself) => {
                "the task is among the tasks that it depends on".to_owned()
            }
            Self::InvalidDependency(Invalid::Unknown { id, .. }) => {
                format!("the task depends on {id}, which this scheduler does not know")
            }
            Self::InvalidRequest(error) => error.to_string(),
            Self::QueueFull => "the scheduler's queue is full".to_owned(),
            Self::TaskTimeout(timeout) => format!(
                "no engine could take the task within its timeout of {} s",
                timeout.as_secs_f64()
            ),
        }
    }

    /// Lines for `content.traceback`: which task, why, and what to do about it.
    #[must_use]
    pub fn traceback(&self, task: &MsgId) -> Vec<String> {
        vec![
            format!("{}: {}", self.ename(), self.evalue(task)),
            format!("  task:   {task}"),
            format!("  remedy: {}", self.remedy()),
        ]
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::EngineDied(_) => {
                "look at the engine's log; if the task is safe to run twice, submit it with retries=1"
            }
            Self::ImpossibleDependency(why) => why.remedy(),
            Self::InvalidDependency(Invalid::Itself) => "leave the task's own id out",
            Self::InvalidDependency(Invalid::Unknown {
                forgotten: false, ..
            }) => {
                "depend only on tasks of a LoadBalancedView on this controller; tasks of direct and \
                 broadcast views are not seen by the scheduler"
            }
            Self::InvalidDependency(Invalid::Unknown {
                forgotten: true, ..
            }) => {
                "depend only on tasks of a LoadBalancedView on this controller; if it was one, it \
                 ended so long ago that its outcome is forgotten: leave it out"
            }
            Self::InvalidRequest(_) => {
                "correct the flags of the view (after, follow, targets, ...)"
            }
            Self::QueueFull => {
                "wait for results before submitting more, or put more work in a task"
            }
            Self::TaskTimeout(_) => {
                "allow more time, add engines, or look at what keeps them busy (queue_status)"
            }
        }
    }
}

impl Impossible {
    fn cause(&self) -> String {
        match self {
            Self::EndedOtherwise(Some(id)) => {
                format!("task {id}, which it depends on, did not end as asked")
            }
            Self::EndedOtherwise(None) => {
                "tasks that it depends on did not end as asked".to_owned()
            }
            Self::FollowedGone => "no engine is left that ran the tasks to follow".to_owned(),
            Self::FollowedScattered => {
                "the tasks to follow ran on more than one engine, and it must be where all of them \
                 ran"
                .to_owned()
            }
            Self::FollowedElsewhere => {
                "the tasks to follow did not run on any of its targets".to_owned()
            }
            Self::NoTarget => "none of its targets is registered".to_owned(),
            Self::Refused => "every engine that may run it has refused it".to_owned(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::EndedOtherwise(_) => {
                "look at that task's result; Dependency(..., success=, failure=, all=) says which \
                 outcomes count"
            }
            Self::FollowedGone => "run the tasks to follow again, or do not follow them",
            Self::FollowedScattered => {
                "let the tasks to follow follow each other, or use Dependency(..., all=False)"
            }
            Self::FollowedElsewhere => "choose targets that ran the tasks to follow, or none",
            Self::NoTarget => "create the view anew: engines that restart get another uuid",
            Self::Refused => "install what @require asks for on an engine, or allow more targets",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_names_itself_the_cause_and_a_remedy() {
        let task = MsgId::new("t_1");
        let id = MsgId::new("gone");
        let failures = [
            Failure::EngineDied(EngineUuid::new("u-1")),
            Failure::ImpossibleDependency(Impossible::EndedOtherwise(Some(id.clone()))),
            Failure::InvalidDependency(Invalid::Unknown {
                id,
                forgotten: true,
            }),
            Failure::QueueFull,
            Failure::TaskTimeout(Duration::from_millis(1500)),
        ];
        for failure in &failures {
            let lines = failure.traceback(&task);
            assert!(lines[0].starts_with(failure.ename()), "{lines:?}");
            assert!(lines[1].contains("t_1") && lines[2].len() > 20, "{lines:?}");
        }
        assert_eq!(
            failures[0].evalue(&task),
            "Engine b'u-1' died while running task 't_1'"
        );
        assert!(failures[1].evalue(&task).contains("gone"));
        assert!(failures[2].traceback(&task)[2].contains("forgotten"));
        assert!(failures[4].evalue(&task).contains("1.5 s"));
    }
}
