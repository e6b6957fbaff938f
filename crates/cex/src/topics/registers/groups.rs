//! Names of endpoint filters.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, TenantId};
use serde::Serialize;
use sqlx::FromRow;
use utoipa::ToSchema;

use super::{Registers, names};
use crate::error::Error;

/// A name of an endpoint filter in topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub(crate) group_name: String,
    pub(crate) filter_id: String,
    pub(crate) application_name: String,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
}

impl Registers {
    /// Names a filter.
    ///
    /// # Errors
    /// When the name is that of a filter out of the caller's `reach` (none: all applications).
    pub(crate) async fn put_group(
        &self,
        tenant: &TenantId,
        group: &CommandType,
        filter_id: &str,
        application: &ApplicationName,
        reach: Option<&BTreeSet<ApplicationName>>,
    ) -> Result<(), Error> {
        let written = sqlx::query(
            "INSERT INTO groups (tenant_id, group_name, filter_id, application_name) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, group_name) DO UPDATE SET filter_id = $3, application_name = $4
                 WHERE $5::text[] IS NULL OR groups.application_name = ANY($5)",
        )
        .bind(tenant.as_str())
        .bind(group.as_str())
        .bind(filter_id)
        .bind(application.as_str())
        .bind(names(reach))
        .execute(&self.pool)
        .await?;
        if written.rows_affected() == 0 {
            return Err(Error::Forbidden(format!(
                "{group} is a group of another application, where you have no role that allows this"
            )));
        }
        Ok(())
    }

    pub(crate) async fn group(&self, tenant: &TenantId, group: &CommandType) -> sqlx::Result<Option<Group>> {
        sqlx::query_as(
            "SELECT group_name, filter_id, application_name, created_at FROM groups
             WHERE tenant_id = $1 AND group_name = $2",
        )
        .bind(tenant.as_str())
        .bind(group.as_str())
        .fetch_optional(&self.pool)
        .await
    }

    /// A page of the groups of these applications (none: of all), and how many there are in all.
    pub(crate) async fn groups(
        &self,
        tenant: &TenantId,
        applications: Option<&BTreeSet<ApplicationName>>,
        (offset, limit): (i64, i64),
    ) -> sqlx::Result<(i64, Vec<Group>)> {
        let applications = names(applications);
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM groups
             WHERE tenant_id = $1 AND ($2::text[] IS NULL OR application_name = ANY($2))",
        )
        .bind(tenant.as_str())
        .bind(applications.as_deref())
        .fetch_one(&self.pool)
        .await?;
        let groups = sqlx::query_as(
            "SELECT group_name, filter_id, application_name, created_at FROM groups
             WHERE tenant_id = $1 AND ($2::text[] IS NULL OR application_name = ANY($2))
             ORDER BY group_name OFFSET $3 LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(applications.as_deref())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, groups))
    }

    /// Takes the name from a filter.
    pub(crate) async fn remove_group(&self, tenant: &TenantId, group: &CommandType) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM groups WHERE tenant_id = $1 AND group_name = $2")
            .bind(tenant.as_str())
            .bind(group.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
