//! The role and the schema of a service.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::time::sleep;

use crate::Error;

/// First half of the key of the advisory lock that one replica holds while it prepares the database: "bndr" in ASCII.
const LOCK: i32 = 0x626e_6472;

/// How often to begin anew when another database of the same server makes the same role at the same moment. Roles belong to the
/// whole server, and advisory locks to one database.
const ATTEMPTS: u32 = 20;

/// The names of a service in the database, safe to stand in SQL.
#[derive(Debug)]
pub(crate) struct Place {
    service: &'static str,
}

impl Place {
    pub(crate) fn new(service: &'static str) -> Result<Self, Error> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let valid = service.len() <= 48 && service.starts_with(|c: char| c.is_ascii_lowercase());
        if valid && service.bytes().all(plain) {
            Ok(Self { service })
        } else {
            Err(Error::ServiceName(service))
        }
    }

    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    fn role(&self) -> String {
        format!("bandar_{}", self.service)
    }

    /// SQL that makes a session work as the service.
    pub(crate) fn session(&self) -> String {
        format!(r#"SET ROLE "{}"; SET search_path = "{}"; SET TimeZone = 'UTC'"#, self.role(), self.service)
    }
}

/// Makes role and schema of the service where they are missing, and keeps the lock, so that the caller may go on with the migrations
/// undisturbed until it closes the connection.
pub(crate) async fn provision(connection: &mut PgConnection, place: &Place, user: &str) -> Result<(), Error> {
    let service = place.service;
    let failed = |source| Error::Prepare { service, source };
    // Another replica's migrations may take their time, but not for ever.
    connection
        .execute("SET client_min_messages = warning; SET lock_timeout = '15min'")
        .await
        .map_err(failed)?;
    sqlx::query("SELECT pg_advisory_lock($1, hashtext($2))")
        .bind(LOCK)
        .bind(service)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    for attempt in 1.. {
        let missing = missing(connection, place).await.map_err(failed)?;
        let Err((source, rest)) = run(connection, &missing).await else { return Ok(()) };
        if is_race(&source) && attempt < ATTEMPTS {
            sleep(Duration::from_millis(20)).await;
        } else if code(&source).as_deref() == Some("42501") {
            let sql = rest.iter().map(|statement| format!("{statement};\n")).collect();
            return Err(Error::Privilege { service, user: user.to_owned(), sql, source });
        } else {
            return Err(failed(source));
        }
    }
    Ok(())
}

/// The statements that are still to be run.
async fn missing(connection: &mut PgConnection, place: &Place) -> sqlx::Result<Vec<String>> {
    let (role, schema) = (place.role(), place.service);
    // From PostgreSQL 16 on, being a member does not always allow SET ROLE.
    let (user, version): (String, i32) =
        sqlx::query_as("SELECT current_user::text, current_setting('server_version_num')::int")
            .fetch_one(&mut *connection)
            .await?;
    let privilege = if version >= 160_000 { "SET" } else { "MEMBER" };
    let (has_role, is_member, has_schema, may_create): (bool, bool, bool, bool) = sqlx::query_as(
        "SELECT r.oid IS NOT NULL,
                COALESCE(pg_has_role(current_user, r.oid, $3), false),
                n.oid IS NOT NULL,
                COALESCE(has_schema_privilege(r.oid, n.oid, 'CREATE')
                         AND has_schema_privilege(r.oid, n.oid, 'USAGE'), false)
         FROM (SELECT 1) AS one
         LEFT JOIN pg_roles AS r ON r.rolname = $1
         LEFT JOIN pg_namespace AS n ON n.nspname = $2",
    )
    .bind(&role)
    .bind(schema)
    .bind(privilege)
    .fetch_one(&mut *connection)
    .await?;
    let mut statements = Vec::new();
    if !has_role {
        statements.push(format!(r#"CREATE ROLE "{role}" NOLOGIN"#));
    }
    if !is_member {
        statements.push(format!(r#"GRANT "{role}" TO "{}""#, user.replace('"', "\"\"")));
    }
    if !has_schema {
        statements.push(format!(r#"CREATE SCHEMA "{schema}" AUTHORIZATION "{role}""#));
        statements.push(format!(r#"REVOKE ALL ON SCHEMA "{schema}" FROM PUBLIC"#));
    } else if !may_create {
        statements.push(format!(r#"ALTER SCHEMA "{schema}" OWNER TO "{role}""#));
    }
    Ok(statements)
}

/// Runs the statements in order; a failure comes with those that were not run.
async fn run<'s>(
    connection: &mut PgConnection,
    statements: &'s [String],
) -> Result<(), (sqlx::Error, &'s [String])> {
    for (index, statement) in statements.iter().enumerate() {
        if let Err(error) = connection.execute(AssertSqlSafe(statement.clone())).await {
            return Err((error, &statements[index..]));
        }
    }
    Ok(())
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether somebody else did the same at the same moment: duplicate_object, unique_violation on a catalogue, or a catalogue row that
/// was just changed (PostgreSQL gives the latter as internal_error).
fn is_race(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("42710" | "42P06" | "23505" | "XX000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_can_be_schemas() {
        assert!(Place::new("epts").is_ok());
        for name in ["", "1x", "a-b", "Epts", "a\"b", "a b"] {
            assert!(Place::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_session_works_as_the_service_only() {
        let session = Place::new("dcx").unwrap().session();
        assert_eq!(session, r#"SET ROLE "bandar_dcx"; SET search_path = "dcx"; SET TimeZone = 'UTC'"#);
    }
}
