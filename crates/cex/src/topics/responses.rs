//! Results on their way to the applications that command over topics.
//!
//! A result is written together with the end of its command, so none is forgotten. It is told in the order of its topic, one
//! after the other, until a subscriber has acknowledged it; while there is none it waits for a subscription.

use std::time::Duration;

use bytes::Bytes;
use ids::TenantId;
use sqlx::{FromRow, PgPool};

/// The statements about them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Responses {
    pool: PgPool,
}

/// A result that may be told now, by whoever has this.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Response {
    response_key: i64,
    lease: i64,
    #[sqlx(try_from = "String")]
    pub(super) tenant_id: TenantId,
    pub(super) topic: String,
    payload: Vec<u8>,
    /// What the application sent with its command.
    correlation_data: Option<Vec<u8>>,
    attempts: i32,
}

impl Response {
    pub(super) fn payload(&self) -> Bytes {
        self.payload.clone().into()
    }

    pub(super) fn correlation_data(&self) -> Option<Bytes> {
        self.correlation_data.clone().map(Bytes::from)
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts.unsigned_abs()
    }
}

/// What a lease gives: the row, and what the application sent with the command, be it one of a batch.
const LEASED: &str = "RETURNING response_key, lease, tenant_id, topic, payload, attempts, (
    SELECT publications.correlation_data FROM commands
        JOIN idempotency_keys keys ON keys.command_key = commands.command_key OR keys.batch_key = commands.batch_key
        JOIN publications ON publications.tenant_id = keys.tenant_id
            AND publications.idempotency_key = keys.idempotency_key
            AND publications.correlation_data IS NOT NULL
    WHERE commands.command_key = responses.command_key AND keys.tenant_id = responses.tenant_id LIMIT 1
) AS correlation_data";

impl Responses {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Somebody subscribed: what waits is due now. Whoever tells one of them at the moment, and finds nobody, does not
    /// put it back to wait.
    pub(super) async fn wake(&self, tenant: &TenantId, filter: &str) -> sqlx::Result<bool> {
        let woken = sqlx::query(
            "UPDATE responses SET due_at = now(), attempts = 0, lease = lease + 1, leased_until = '-infinity'
             WHERE tenant_id = $1 AND (topic = $2 OR strpos($2, '+') > 0
                 AND topic LIKE replace(replace($2, '_', '\\_'), '+', '%'))",
        )
        .bind(tenant.as_str())
        .bind(filter)
        .execute(&self.pool)
        .await?;
        Ok(woken.rows_affected() > 0)
    }

    /// Leases the first result of topics where something is due and that nobody tells, of so many at most.
    pub(super) async fn due(&self, topics_max: i64, lease_for: Duration) -> sqlx::Result<Vec<Response>> {
        // From topic to topic, however much is due on one. What waits for a subscriber goes before what is newer: there may be
        // one by now.
        let sql = format!(
            "WITH RECURSIVE topics AS (
                 (SELECT tenant_id, topic FROM responses WHERE due_at IS NOT NULL
                  ORDER BY tenant_id, topic LIMIT 1)
                 UNION ALL
                 SELECT next.tenant_id, next.topic FROM topics, LATERAL (
                     SELECT tenant_id, topic FROM responses
                     WHERE due_at IS NOT NULL AND (tenant_id, topic) > (topics.tenant_id, topics.topic)
                     ORDER BY tenant_id, topic LIMIT 1) AS next),
             first AS (
                 SELECT head.response_key FROM topics, LATERAL (
                     SELECT response_key, due_at, leased_until FROM responses
                     WHERE responses.tenant_id = topics.tenant_id AND responses.topic = topics.topic
                     ORDER BY response_key LIMIT 1) AS head
                 WHERE leased_until <= now() AND (due_at IS NULL OR due_at <= now())
                 ORDER BY head.response_key LIMIT $1),
             free AS (
                 SELECT response_key AS free_key FROM responses
                 WHERE response_key IN (SELECT response_key FROM first) AND leased_until <= now()
                 ORDER BY response_key FOR UPDATE SKIP LOCKED)
             UPDATE responses SET due_at = now(), lease = lease + 1, leased_until = now() + $2,
                 attempts = attempts + 1
             FROM free WHERE response_key = free_key {LEASED}"
        );
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(topics_max).bind(lease_for).fetch_all(&self.pool).await
    }

    /// A subscriber has it: it is done with. Leases the next of its topic, unless somebody else tells that.
    pub(super) async fn told(
        &self,
        response: &Response,
        lease_for: Duration,
    ) -> sqlx::Result<Option<Response>> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM responses WHERE response_key = $1")
            .bind(response.response_key)
            .execute(&mut *transaction)
            .await?;
        // There is a subscriber, so what waits for one is due, too.
        let sql = format!(
            "WITH free AS (
                 SELECT response_key AS free_key FROM responses
                 WHERE response_key = (
                         SELECT response_key FROM responses WHERE tenant_id = $1 AND topic = $2
                         ORDER BY response_key LIMIT 1)
                     AND leased_until <= now() FOR UPDATE SKIP LOCKED)
             UPDATE responses SET due_at = now(), lease = lease + 1, leased_until = now() + $3,
                 attempts = attempts + 1
             FROM free WHERE response_key = free_key {LEASED}"
        );
        let next = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(response.tenant_id.as_str())
            .bind(&response.topic)
            .bind(lease_for)
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// A subscriber may have it and has not said so: the topic is tried again after the pause. Nothing happens when somebody
    /// subscribed meanwhile.
    pub(super) async fn postpone(&self, response: &Response, pause: Duration) -> sqlx::Result<()> {
        self.give_back(response, Some(pause), Duration::ZERO).await
    }

    /// Nobody listens: the topic is tried again when somebody subscribes, or with the next result on it; but for that not before
    /// the pause is over, so that those who tell are not busy with topics where nobody listens. Nothing happens when somebody
    /// subscribed meanwhile.
    pub(super) async fn rest(&self, response: &Response, pause: Duration) -> sqlx::Result<()> {
        self.give_back(response, None, pause).await
    }

    async fn give_back(
        &self,
        response: &Response,
        due_in: Option<Duration>,
        rests: Duration,
    ) -> sqlx::Result<()> {
        sqlx::query(
            "WITH mine AS (
                 UPDATE responses SET leased_until = now() + $4, due_at = now() + $3
                 WHERE response_key = $1 AND lease = $2 RETURNING tenant_id, topic)
             UPDATE responses SET due_at = now() + $3 FROM mine
             WHERE responses.tenant_id = mine.tenant_id AND responses.topic = mine.topic AND response_key > $1
                 AND due_at <= now()",
        )
        .bind(response.response_key)
        .bind(response.lease)
        .bind(due_in)
        .bind(rests)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Drops the oldest of each topic where more than so many wait; answers how many.
    pub(super) async fn trim(&self, waiting_max: u32) -> sqlx::Result<u64> {
        let dropped = sqlx::query(
            "WITH RECURSIVE topics AS (
                 (SELECT tenant_id, topic FROM responses ORDER BY tenant_id, topic LIMIT 1)
                 UNION ALL
                 SELECT next.tenant_id, next.topic FROM topics, LATERAL (
                     SELECT tenant_id, topic FROM responses
                     WHERE (tenant_id, topic) > (topics.tenant_id, topics.topic)
                     ORDER BY tenant_id, topic LIMIT 1) AS next),
             surplus AS (
                 SELECT tenant_id AS of_tenant, topic AS at_topic, newest.response_key AS last_key
                 FROM topics, LATERAL (
                     SELECT response_key FROM responses
                     WHERE responses.tenant_id = topics.tenant_id AND responses.topic = topics.topic
                     ORDER BY response_key DESC OFFSET $1 LIMIT 1) AS newest)
             DELETE FROM responses USING surplus
             WHERE tenant_id = of_tenant AND topic = at_topic AND response_key <= last_key AND leased_until <= now()",
        )
        .bind(i64::from(waiting_max))
        .execute(&self.pool)
        .await?;
        Ok(dropped.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::ledger::MIGRATOR;

    const LEASE: Duration = Duration::from_secs(60);

    struct Site {
        responses: Responses,
        tenant: TenantId,
        _database: testkit::Database,
    }

    impl Site {
        async fn start() -> Self {
            let database = testkit::database().await;
            let pool = PgPool::connect(&database.url).await.unwrap();
            MIGRATOR.run(&pool).await.unwrap();
            let tenant = TenantId::parse("acme").unwrap();
            Self { responses: Responses::new(pool), tenant, _database: database }
        }

        async fn write(&self, topic: &str, payload: &str) {
            sqlx::query("INSERT INTO responses (tenant_id, topic, payload) VALUES ('acme', $1, $2)")
                .bind(topic)
                .bind(payload.as_bytes())
                .execute(&self.responses.pool)
                .await
                .unwrap();
        }

        /// What may be told now, by topic.
        async fn due(&self) -> Vec<Response> {
            let mut due = self.responses.due(10, LEASE).await.unwrap();
            due.sort_by(|one, other| one.topic.cmp(&other.topic));
            due
        }
    }

    fn payloads(responses: &[Response]) -> Vec<String> {
        responses.iter().map(|it| String::from_utf8(it.payload.clone()).unwrap()).collect()
    }

    #[tokio::test]
    async fn results_are_told_in_the_order_of_their_topic_by_one_teller_at_a_time() {
        let site = Site::start().await;
        for (topic, payload) in [("cmd/a/resp", "a1"), ("cmd/a/resp", "a2"), ("cmd/b/resp", "b1")] {
            site.write(topic, payload).await;
        }
        let due = site.due().await;
        assert_eq!(payloads(&due), ["a1", "b1"]);
        assert!(site.due().await.is_empty());
        let next = site.responses.told(&due[0], LEASE).await.unwrap().unwrap();
        assert_eq!(payloads(slice::from_ref(&next)), ["a2"]);
        assert!(site.responses.told(&due[1], LEASE).await.unwrap().is_none());
        assert!(site.responses.told(&next, LEASE).await.unwrap().is_none());
        assert!(site.due().await.is_empty());
    }

    #[tokio::test]
    async fn a_teller_that_died_is_followed_by_another() {
        let site = Site::start().await;
        site.write("cmd/a/resp", "a1").await;
        assert_eq!(site.responses.due(10, Duration::ZERO).await.unwrap().len(), 1);
        let due = site.due().await;
        assert_eq!((payloads(&due), due[0].attempts()), (vec!["a1".to_owned()], 2));
    }

    #[tokio::test]
    async fn what_nobody_listens_to_waits_for_a_subscription() {
        let site = Site::start().await;
        site.write("cmd/a_/resp", "1").await;
        site.write("cmd/a_/resp", "2").await;
        let due = site.due().await;
        site.responses.rest(&due[0], Duration::ZERO).await.unwrap();
        assert!(site.due().await.is_empty());
        // A newer one finds out whether somebody listens by now, and takes the older ones along.
        site.write("cmd/a_/resp", "3").await;
        let due = site.due().await;
        assert_eq!(payloads(&due), ["1"]);
        site.responses.rest(&due[0], Duration::ZERO).await.unwrap();
        assert!(site.due().await.is_empty());
        for elsewhere in ["cmd/b/resp", "cmd/ab/resp", "+/response"] {
            assert!(!site.responses.wake(&site.tenant, elsewhere).await.unwrap());
        }
        let other = TenantId::parse("other").unwrap();
        assert!(!site.responses.wake(&other, "cmd/+/resp").await.unwrap());
        assert!(site.responses.wake(&site.tenant, "cmd/+/resp").await.unwrap());
        let mut next = site.due().await.pop();
        for payload in ["1", "2", "3"] {
            let response = next.unwrap();
            assert_eq!(payloads(slice::from_ref(&response)), [payload]);
            next = site.responses.told(&response, LEASE).await.unwrap();
        }
        assert!(next.is_none());
    }

    #[tokio::test]
    async fn a_subscription_while_nobody_is_found_is_not_overlooked() {
        let site = Site::start().await;
        site.write("cmd/a/resp", "1").await;
        let due = site.due().await;
        assert!(site.responses.wake(&site.tenant, "cmd/a/resp").await.unwrap());
        site.responses.rest(&due[0], Duration::ZERO).await.unwrap();
        assert_eq!(payloads(&site.due().await), ["1"]);
    }

    #[tokio::test]
    async fn what_may_have_come_is_told_again_and_what_is_behind_it_waits() {
        let site = Site::start().await;
        site.write("cmd/a/resp", "1").await;
        site.write("cmd/a/resp", "2").await;
        let due = site.due().await;
        site.responses.postpone(&due[0], Duration::from_secs(3600)).await.unwrap();
        assert!(site.due().await.is_empty());
        site.write("cmd/a/resp", "3").await;
        assert!(site.due().await.is_empty());
        assert!(site.responses.wake(&site.tenant, "cmd/a/resp").await.unwrap());
        assert_eq!(payloads(&site.due().await), ["1"]);
    }

    #[tokio::test]
    async fn a_topic_where_nobody_listens_is_not_tried_with_every_result_but_with_a_subscription() {
        let site = Site::start().await;
        site.write("cmd/a/resp", "1").await;
        let due = site.due().await;
        site.responses.rest(&due[0], LEASE).await.unwrap();
        site.write("cmd/a/resp", "2").await;
        site.write("cmd/b/resp", "other").await;
        assert_eq!(payloads(&site.due().await), ["other"]);
        assert!(site.responses.wake(&site.tenant, "cmd/a/resp").await.unwrap());
        assert_eq!(payloads(&site.due().await), ["1"]);
    }

    #[tokio::test]
    async fn of_too_many_that_wait_the_newest_stay() {
        let site = Site::start().await;
        for number in 1..=5 {
            site.write("cmd/a/resp", &number.to_string()).await;
        }
        site.write("cmd/b/resp", "other").await;
        assert_eq!(site.responses.trim(5).await.unwrap(), 0);
        assert_eq!(site.responses.trim(2).await.unwrap(), 3);
        assert_eq!(payloads(&site.due().await), ["4", "other"]);
    }
}
