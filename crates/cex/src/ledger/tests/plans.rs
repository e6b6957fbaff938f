//! How PostgreSQL finds rows: while the tables are new, nothing tells it which index is the right one.

use super::*;

#[tokio::test]
async fn one_command_is_found_by_its_name_while_the_tables_are_new() {
    let bed = Bed::new(Config::default()).await;
    for sql in [
        "EXPLAIN SELECT state FROM commands
         WHERE tenant_id = 'acme' AND endpoint_id = 'e' AND command_type = 'reboot' AND command_id = 1",
        "EXPLAIN SELECT c.state FROM unnest('{acme}'::text[], '{e}'::text[], '{reboot}'::text[], '{1}'::integer[])
             AS g (tenant_id, endpoint_id, command_type, command_id)
         JOIN commands c USING (tenant_id, endpoint_id, command_type, command_id)",
    ] {
        let mut connection = bed.pool.acquire().await.unwrap();
        // As the writers have it.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
            .execute(&mut *connection)
            .await
            .unwrap();
        let plan: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("commands_id_key"), "{plan}");
    }
}
