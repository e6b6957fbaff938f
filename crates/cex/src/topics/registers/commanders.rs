//! Who may command.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, TenantId};
use serde::Serialize;
use sqlx::FromRow;
use utoipa::ToSchema;

use super::Registers;
use crate::error::Error;

/// Client credentials with which an application may command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Commander {
    pub(crate) credentials_id: String,
    /// The applications whose endpoints may be commanded; absent: all of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application_names: Option<Vec<String>>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
}

/// What a client may command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::topics) struct Command {
    pub(in crate::topics) credentials_id: String,
    /// None: all applications of the tenant.
    applications: Option<BTreeSet<ApplicationName>>,
}

impl Command {
    /// None: all of the tenant.
    pub(in crate::topics) fn applications(&self) -> Option<BTreeSet<ApplicationName>> {
        self.applications.clone()
    }

    pub(in crate::topics) fn is_limited(&self) -> bool {
        self.applications.is_some()
    }

    pub(in crate::topics) fn check(&self, application: &ApplicationName) -> Result<(), Error> {
        match &self.applications {
            Some(applications) if !applications.contains(application) => Err(Error::Forbidden(format!(
                "these credentials may not command in application {application}"
            ))),
            _ => Ok(()),
        }
    }
}

impl Registers {
    /// What a client with these credentials may command; none: nothing.
    pub(in crate::topics) async fn command(
        &self,
        tenant: &TenantId,
        credentials_ids: &[String],
    ) -> sqlx::Result<Option<Command>> {
        let rows: Vec<(String, Option<Vec<String>>)> = sqlx::query_as(
            "SELECT credentials_id, application_names FROM commanders
             WHERE tenant_id = $1 AND credentials_id = ANY($2) ORDER BY credentials_id",
        )
        .bind(tenant.as_str())
        .bind(credentials_ids)
        .fetch_all(&self.pool)
        .await?;
        // Whoever shows two credentials may what both may.
        Ok(rows.into_iter().fold(None, |command, (credentials_id, names)| {
            let names: Option<BTreeSet<_>> = names
                .map(|names| names.iter().filter_map(|name| ApplicationName::parse(name).ok()).collect());
            Some(match command {
                None => Command { credentials_id, applications: names },
                Some(Command { credentials_id, applications }) => {
                    let both = applications.zip(names).map(|(mut some, others)| {
                        some.extend(others);
                        some
                    });
                    Command { credentials_id, applications: both }
                }
            })
        }))
    }

    /// Lets an application command.
    pub(crate) async fn put_commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
        applications: Option<&[ApplicationName]>,
    ) -> sqlx::Result<()> {
        let applications: Option<Vec<&str>> =
            applications.map(|names| names.iter().map(ApplicationName::as_str).collect());
        sqlx::query(
            "INSERT INTO commanders (tenant_id, credentials_id, application_names) VALUES ($1, $2, $3)
             ON CONFLICT (tenant_id, credentials_id) DO UPDATE SET application_names = $3",
        )
        .bind(tenant.as_str())
        .bind(credentials_id)
        .bind(applications)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    pub(crate) async fn commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
    ) -> sqlx::Result<Option<Commander>> {
        sqlx::query_as(
            "SELECT credentials_id, application_names, created_at FROM commanders
             WHERE tenant_id = $1 AND credentials_id = $2",
        )
        .bind(tenant.as_str())
        .bind(credentials_id)
        .fetch_optional(&self.pool)
        .await
    }

    /// A page of the commanders, and how many there are in all.
    pub(crate) async fn commanders(
        &self,
        tenant: &TenantId,
        (offset, limit): (i64, i64),
    ) -> sqlx::Result<(i64, Vec<Commander>)> {
        let total = sqlx::query_scalar("SELECT count(*) FROM commanders WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .fetch_one(&self.pool)
            .await?;
        let commanders = sqlx::query_as(
            "SELECT credentials_id, application_names, created_at FROM commanders WHERE tenant_id = $1
             ORDER BY credentials_id OFFSET $2 LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, commanders))
    }

    /// Takes the right to command away; answers whether there was one.
    pub(crate) async fn remove_commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
    ) -> sqlx::Result<bool> {
        let deleted = sqlx::query("DELETE FROM commanders WHERE tenant_id = $1 AND credentials_id = $2")
            .bind(tenant.as_str())
            .bind(credentials_id)
            .execute(&self.pool)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
