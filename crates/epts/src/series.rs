//! Series and their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::{ApplicationName, EndpointId, TenantId, TimeSeriesName};
use quick_cache::sync::Cache;
use sqlx::PgConnection;

use crate::work::Work;

/// An endpoint of an application; what the cache is asked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Endpoint {
    tenant_id: TenantId,
    application_name: ApplicationName,
    endpoint_id: EndpointId,
}

impl Endpoint {
    fn of(work: &Work) -> Self {
        Self {
            tenant_id: work.version.tenant_id.clone(),
            application_name: work.version.app_name.clone(),
            endpoint_id: work.endpoint_id.clone(),
        }
    }
}

/// How long the ids of an endpoint's series are remembered before they are read again.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// How long a series without points stays after it was marked as removed. Longer than anybody remembers its id, so that
/// no point is ever stored under an id that is no more.
pub(crate) const MARKED_KEPT: Duration = Duration::from_secs(2 * 3_600);

/// All series of one endpoint, but for those that are marked as removed.
#[derive(Debug, Clone)]
pub(crate) struct EndpointSeries {
    ids: Vec<(TimeSeriesName, i64)>,
    read: Instant,
}

impl Default for EndpointSeries {
    fn default() -> Self {
        Self { ids: Vec::new(), read: Instant::now() }
    }
}

impl EndpointSeries {
    /// The id of a series. Endpoints have few series: looking through them is faster than hashing.
    pub(crate) fn id(&self, name: &TimeSeriesName) -> Option<i64> {
        self.ids.iter().find(|(known, _)| known == name).map(|(_, id)| *id)
    }

    fn has_all<'a>(&self, names: impl IntoIterator<Item = &'a TimeSeriesName>) -> bool {
        names.into_iter().all(|name| self.id(name).is_some())
    }
}

/// A message would give its endpoint more series than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the endpoint would have more than {limit} time series (epts.series_per_endpoint_max); send fewer different fields"
)]
pub(crate) struct TooManySeries {
    limit: usize,
}

/// Keeps the series of the endpoints that send, and makes new ones.
pub(crate) struct SeriesRegister {
    cache: Cache<Endpoint, Arc<EndpointSeries>>,
    per_endpoint_max: usize,
}

/// For each message of a batch the series of its endpoint.
pub(crate) type Resolved = Vec<Result<Arc<EndpointSeries>, TooManySeries>>;

impl SeriesRegister {
    pub(crate) fn new(endpoints_max: usize, per_endpoint_max: usize) -> Self {
        Self { cache: Cache::new(endpoints_max), per_endpoint_max }
    }

    /// Finds the series of a batch if all are in memory, which is nearly always.
    pub(crate) fn known(&self, batch: &[Work]) -> Option<Resolved> {
        let now = Instant::now();
        let is_known = |series: &Arc<EndpointSeries>, work: &Work| {
            now.duration_since(series.read) < REMEMBERED && series.has_all(work.series())
        };
        let known = |work: &Work| self.cache.get(&Endpoint::of(work)).filter(|series| is_known(series, work));
        batch.iter().map(|work| known(work).map(Ok)).collect()
    }

    /// Finds the series of a batch in the database and makes those that are missing. What it makes is committed at
    /// once and stays if the batch fails: a series without points does no harm.
    pub(crate) async fn resolve(
        &self,
        connection: &mut PgConnection,
        batch: &[Work],
    ) -> sqlx::Result<Resolved> {
        let endpoints: Vec<Endpoint> = batch.iter().map(Endpoint::of).collect();
        let distinct: BTreeSet<&Endpoint> = endpoints.iter().collect();
        let needed = batch.iter().zip(&endpoints);
        let needed = needed.flat_map(|(work, endpoint)| work.series().map(move |name| (endpoint, name)));
        let mut found = load(connection, &distinct, &needed.collect()).await?;

        let mut is_over = vec![false; batch.len()];
        let mut missing: BTreeSet<(&Endpoint, &TimeSeriesName)> = BTreeSet::new();
        let mut counts: HashMap<&Endpoint, usize> =
            found.iter().map(|(endpoint, series)| (*endpoint, series.ids.len())).collect();
        for ((work, endpoint), is_over) in batch.iter().zip(&endpoints).zip(&mut is_over) {
            let known = found.get(endpoint);
            let new: HashSet<&TimeSeriesName> = work
                .series()
                .filter(|name| known.is_none_or(|known| known.id(name).is_none()))
                .filter(|name| !missing.contains(&(endpoint, *name)))
                .collect();
            let count = counts.entry(endpoint).or_default();
            if *count + new.len() > self.per_endpoint_max && !new.is_empty() {
                *is_over = true;
                continue;
            }
            *count += new.len();
            missing.extend(new.into_iter().map(|name| (endpoint, name)));
        }
        if !missing.is_empty() {
            create(connection, &missing, &mut found).await?;
        }
        let found: HashMap<&Endpoint, Arc<EndpointSeries>> =
            found.into_iter().map(|(endpoint, series)| (endpoint, Arc::new(series))).collect();
        for (endpoint, series) in &found {
            self.cache.insert((*endpoint).clone(), series.clone());
        }
        let result = |(endpoint, is_over): (&Endpoint, bool)| {
            if is_over {
                Err(TooManySeries { limit: self.per_endpoint_max })
            } else {
                Ok(found.get(endpoint).cloned().unwrap_or_default())
            }
        };
        Ok(endpoints.iter().zip(is_over).map(result).collect())
    }
}

/// All series of the endpoints, each with an entry even if it has none. Those that are marked as removed lose the mark if
/// they are needed, and are left out if not.
async fn load<'a>(
    connection: &mut PgConnection,
    endpoints: &BTreeSet<&'a Endpoint>,
    needed: &HashSet<(&'a Endpoint, &TimeSeriesName)>,
) -> sqlx::Result<HashMap<&'a Endpoint, EndpointSeries>> {
    let list: Vec<&Endpoint> = endpoints.iter().copied().collect();
    let mut found: HashMap<&Endpoint, EndpointSeries> =
        list.iter().map(|endpoint| (*endpoint, EndpointSeries::default())).collect();
    let rows: Vec<(i64, String, i64, bool)> = sqlx::query_as(
        "SELECT endpoint.ordinal, series.name, series.series_id, series.removed_at IS NOT NULL
         FROM unnest($1::text[], $2::text[], $3::text[])
              WITH ORDINALITY AS endpoint (tenant_id, application_name, endpoint_id, ordinal)
         JOIN series USING (tenant_id, application_name, endpoint_id)",
    )
    .bind(list.iter().map(|endpoint| endpoint.tenant_id.as_str()).collect::<Vec<_>>())
    .bind(list.iter().map(|endpoint| endpoint.application_name.as_str()).collect::<Vec<_>>())
    .bind(list.iter().map(|endpoint| endpoint.endpoint_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let mut marked = BTreeMap::new();
    for (ordinal, name, series_id, is_marked) in rows {
        let endpoint = usize::try_from(ordinal - 1).ok().and_then(|index| list.get(index));
        let (Some(endpoint), Ok(name)) = (endpoint, TimeSeriesName::parse(&name)) else { continue };
        if !is_marked {
            found.entry(endpoint).or_default().ids.push((name, series_id));
        } else if needed.contains(&(*endpoint, &name)) {
            marked.insert(series_id, (*endpoint, name));
        }
    }
    if !marked.is_empty() {
        let ids: Vec<i64> = marked.keys().copied().collect();
        // Those that are gone by now are made anew.
        let revived: Vec<i64> = sqlx::query_scalar(
            "UPDATE series SET removed_at = NULL WHERE series_id = ANY ($1) RETURNING series_id",
        )
        .bind(ids)
        .fetch_all(connection)
        .await?;
        for series_id in revived {
            let Some((endpoint, name)) = marked.remove(&series_id) else { continue };
            found.entry(endpoint).or_default().ids.push((name, series_id));
        }
    }
    Ok(found)
}

/// Makes series. They come sorted, so that two replicas which make the same ones wait for each other in one order.
async fn create<'a>(
    connection: &mut PgConnection,
    missing: &BTreeSet<(&'a Endpoint, &TimeSeriesName)>,
    found: &mut HashMap<&'a Endpoint, EndpointSeries>,
) -> sqlx::Result<()> {
    let endpoint = |field: fn(&Endpoint) -> &str| -> Vec<&str> {
        missing.iter().map(|(endpoint, _)| field(endpoint)).collect()
    };
    // Another replica may have made a series since; updating it is how its id comes back.
    let rows: Vec<(i64, String, String, String, String)> = sqlx::query_as(
        "INSERT INTO series (tenant_id, application_name, endpoint_id, name)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
         ON CONFLICT ON CONSTRAINT series_key DO UPDATE SET removed_at = NULL
         RETURNING series_id, tenant_id, application_name, endpoint_id, name",
    )
    .bind(endpoint(|endpoint| endpoint.tenant_id.as_str()))
    .bind(endpoint(|endpoint| endpoint.application_name.as_str()))
    .bind(endpoint(|endpoint| endpoint.endpoint_id.as_str()))
    .bind(missing.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let made: HashMap<_, _> = rows
        .iter()
        .map(|(id, tenant, application, endpoint, name)| {
            ((&**tenant, &**application, &**endpoint, &**name), *id)
        })
        .collect();
    for (endpoint, name) in missing {
        let key = (
            endpoint.tenant_id.as_str(),
            endpoint.application_name.as_str(),
            endpoint.endpoint_id.as_str(),
            name.as_str(),
        );
        if let Some(id) = made.get(&key) {
            found.entry(endpoint).or_default().ids.push(((*name).clone(), *id));
        }
    }
    Ok(())
}
