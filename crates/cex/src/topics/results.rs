//! Results of devices that answer on topics, most of them without saying of which command.

use extension::TopicPublication;

use super::Topics;
use super::answer::Answer;
use super::name::Target;
use crate::domain::{Lane, ResultTaken, State};
use crate::error::Error;

/// How often the oldest command is looked for when others are faster to answer it.
const LOOKS_MAX: usize = 3;

impl Topics {
    /// A device answers. Once this returns its result is durable.
    pub(super) async fn answer(&self, publication: &TopicPublication, target: &Target) -> Result<(), Error> {
        let (credentials_id, lane) =
            self.lane(&publication.tenant, &publication.credentials_ids, target).await?;
        let max = self.config.payload_bytes_max;
        if publication.payload.len() > max {
            let bytes = publication.payload.len();
            return Err(Error::Refused(format!(
                "the result is {bytes} bytes and may be {max} (cex.payload_bytes_max)"
            )));
        }
        let answer = Answer::read(publication.payload.clone(), publication.correlation_data.as_ref())?;
        match answer.command_id {
            Some(command_id) => match self.take(&lane, &answer, command_id).await? {
                ResultTaken::Taken | ResultTaken::Repeated => Ok(()),
                ResultTaken::Late(state) => Err(late(command_id, state)),
                ResultTaken::Unknown => Err(Error::Unknown("command of this thing")),
            },
            None => self.take_unnamed(publication, &credentials_id, &lane, &answer).await,
        }
    }

    /// A result of the oldest command that the device has and did not answer. It is first written down which that is: when the
    /// message comes again, because its acknowledgement was lost, it is not the result of the next one.
    async fn take_unnamed(
        &self,
        publication: &TopicPublication,
        credentials_id: &str,
        lane: &Lane,
        answer: &Answer,
    ) -> Result<(), Error> {
        if let Some(command_id) = self.publications.answered(publication, credentials_id).await? {
            return match self.take(lane, answer, command_id).await? {
                ResultTaken::Late(state) => Err(late(command_id, state)),
                // The command may be purged by now.
                ResultTaken::Taken | ResultTaken::Repeated | ResultTaken::Unknown => Ok(()),
            };
        }
        for _ in 0..LOOKS_MAX {
            let Some(command_id) = self.ledger.oldest_unanswered(lane).await? else { break };
            self.publications.answers(publication, credentials_id, command_id).await?;
            match self.take(lane, answer, command_id).await? {
                ResultTaken::Taken => return Ok(()),
                ResultTaken::Late(state) => return Err(late(command_id, state)),
                // Another result was faster.
                ResultTaken::Repeated | ResultTaken::Unknown => {}
            }
        }
        // Some clients repeat without saying so.
        let last = self.ledger.last(lane).await?;
        let is_repeated = last
            .is_some_and(|last| last.state == State::Executed && last.result.as_ref() == answer.payload());
        if is_repeated {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "no command of type {} is outstanding that this could be the result of",
            lane.command_type
        )))
    }

    async fn take(&self, lane: &Lane, answer: &Answer, command_id: i32) -> Result<ResultTaken, Error> {
        let taken = self.ledger.results(lane, vec![answer.result_of(command_id)]).await?;
        let taken = taken.first().copied().unwrap_or(ResultTaken::Unknown);
        if taken == ResultTaken::Taken {
            // The application may hear of it.
            self.teller.changed.notify_one();
        }
        Ok(taken)
    }
}

fn late(command_id: i32, state: State) -> Error {
    Error::Conflict(format!(
        "command {command_id} had ended before, {}: the result is noted as late",
        state.as_str()
    ))
}
