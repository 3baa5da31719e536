//! `stats`: what a server's pool holds and did.

mod look;
mod watch;

use std::time::Duration;

use overlay_pool::api::Client;

use super::arguments::Socket;
use super::failure::Failure;
use super::{Answer, block_on};
use look::Look;

const EXAMPLES: &str = "\
Counters are those since the server started. A stale overlay is one of a base image that has
changed: it is discarded and not handed over. With --watch a terminal shows a live table, and a pipe
gets one block or one line of JSON for each interval; Ctrl-C ends it. If no server answers, it says
so and goes on trying. In JSON, `time` is in seconds since 1970, and `not_ready` is null if overlays
are kept ready, else the reason why not.

Examples:
  overlay-pool stats
  overlay-pool stats --watch
  overlay-pool stats --watch 0.5 --socket pool.sock
  overlay-pool stats --watch 60 --json >> pool.log";

/// Show what the pool of a server holds and did.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stats {
    /// Look again and again, every second or as often as said, and show rates per second.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = seconds)]
    watch: Option<Duration>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        block_on(self.ask())?
    }

    async fn ask(self) -> Result<Answer, Failure> {
        let client = Client::new(self.socket.path()?);
        if let Some(interval) = self.watch {
            return watch::watch(client, interval, self.json).await;
        }
        let look = Look::at(&client).await?;
        Ok(Answer::from(if self.json { look.json() } else { look.to_string() }))
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an interval is a number of seconds from 0.1 to 86400")]
struct IntervalError;

fn seconds(text: &str) -> Result<Duration, IntervalError> {
    let seconds: f64 = text.parse().map_err(|_| IntervalError)?;
    if !(0.1..=86_400.0).contains(&seconds) {
        return Err(IntervalError);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| IntervalError)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::{IntervalError, seconds};

    #[rstest]
    #[case("1", 1_000)]
    #[case("0.1", 100)]
    #[case("2.5", 2_500)]
    #[case("86400", 86_400_000)]
    fn an_interval_is_in_seconds(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(seconds(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("0")]
    #[case("0.01")]
    #[case("-1")]
    #[case("86401")]
    #[case("1s")]
    #[case("nan")]
    #[case("inf")]
    #[case("")]
    fn what_is_no_interval_is_refused(#[case] text: &str) {
        assert_eq!(seconds(text), Err(IntervalError));
    }
}
