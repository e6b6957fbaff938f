//! Finding out which endpoints a batch is for, and of which application they are.
//!
//! The register's protocols (19/EPMMP, 20/EFMP) name no tenant: what they answer is of anybody. Whose it is, is known from the
//! application version of each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ids::{AppVersionName, ApplicationName, EndpointId};
use ism::efmp::{EP_LIST_BY_FILTER_REQUEST, EP_LIST_BY_FILTER_RESPONSE};
use ism::epmmp::{EP_APP_VERSION_GET_REQUEST, EP_APP_VERSION_GET_RESPONSE};
use ism::subject::{Message, instance};
use ism::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, EndpointListByFilterRequest,
    EndpointListByFilterResponse, Record,
};

use runtime::LookupError;

use super::{Batches, NewBatch, Targets};
use crate::error::Error;

/// How long the endpoint register has to answer one question.
const REGISTER_PATIENCE: Duration = Duration::from_secs(10);
/// Endpoints in one question: at 128 bytes each, which the answer names twice, they fit into a message of 1 MiB.
const ASKED_AT_ONCE: usize = 2_000;
/// Endpoints that do not exist and are named in the error.
const NAMED_MAX: usize = 5;

/// The endpoints of a batch: at least one, each once.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) application: ApplicationName,
    pub(super) endpoints: Vec<EndpointId>,
}

/// Application version name to endpoints, as the register answers.
type ByVersion = BTreeMap<String, Vec<String>>;

impl Batches {
    /// Which endpoints a batch is for.
    pub(super) async fn resolve(&self, new: &NewBatch) -> Result<Resolved, Error> {
        match &new.targets {
            Targets::Filter(filter_id) => self.matching(new, filter_id).await,
            Targets::Endpoints(endpoints) => self.listed(new, endpoints).await,
        }
    }

    async fn matching(&self, new: &NewBatch, filter_id: &str) -> Result<Resolved, Error> {
        let request = EndpointListByFilterRequest {
            correlation_id: new.correlation_id.to_string(),
            timestamp: runtime::now_ms(),
            timeout: patience_ms(),
            filter_id: filter_id.to_owned(),
        };
        let asked = self.ask(EP_LIST_BY_FILTER_REQUEST, EP_LIST_BY_FILTER_RESPONSE, &request);
        let response: EndpointListByFilterResponse = asked.await?;
        let reason = response.reason_phrase.unwrap_or_default();
        let found = match response.status_code {
            200 => response.app_versions_to_endpoints,
            404 => ByVersion::new(),
            409 => return Err(Error::Conflict(format!("filter {filter_id} cannot be used now: {reason}"))),
            413 => {
                return Err(Error::Refused(format!(
                    "filter {filter_id} matches too many endpoints: {reason}"
                )));
            }
            code => return Err(Error::RegisterUnavailable(format!("it answered {code} {reason}"))),
        };
        let total = found.values().map(Vec::len).sum();
        self.check_total(total)?;
        let own = self.own(new, found).await?;
        let endpoints: BTreeSet<EndpointId> = own.values().flatten().cloned().collect();
        // Of a filter of another tenant nothing is said, not even that there is one.
        let application = only(own)?.ok_or(Error::Unknown("filter, or no endpoint matches it"))?;
        Ok(Resolved { application, endpoints: endpoints.into_iter().collect() })
    }

    async fn listed(&self, new: &NewBatch, endpoints: &[EndpointId]) -> Result<Resolved, Error> {
        let mut seen = BTreeSet::new();
        let endpoints: Vec<EndpointId> =
            endpoints.iter().filter(|endpoint| seen.insert(*endpoint)).cloned().collect();
        if endpoints.is_empty() {
            return Err(Error::Refused("endpointIds must name at least one endpoint".to_owned()));
        }
        self.check_total(endpoints.len())?;
        let mut found = ByVersion::new();
        for part in endpoints.chunks(ASKED_AT_ONCE) {
            for (version, endpoints) in self.versions_of(new, part).await? {
                found.entry(version).or_default().extend(endpoints);
            }
        }
        let own = self.own(new, found).await?;
        let known: BTreeSet<&EndpointId> = own.values().flatten().collect();
        let missing: Vec<&EndpointId> =
            endpoints.iter().filter(|endpoint| !known.contains(endpoint)).collect();
        if !missing.is_empty() {
            let named: Vec<&str> = missing.iter().take(NAMED_MAX).map(|endpoint| endpoint.as_str()).collect();
            let more = if missing.len() > NAMED_MAX { ", ..." } else { "" };
            return Err(Error::UnknownEndpoints(missing.len(), named.join(", ") + more));
        }
        let application = only(own)?.ok_or(Error::Unknown("endpoint"))?;
        Ok(Resolved { application, endpoints })
    }

    fn check_total(&self, total: usize) -> Result<(), Error> {
        let max = self.config.batch_endpoints_max;
        if u32::try_from(total).is_ok_and(|total| total <= max) {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "the batch has {total} endpoints and may have {max} (cex.batch_endpoints_max): make several of it"
        )))
    }

    async fn versions_of(&self, new: &NewBatch, part: &[EndpointId]) -> Result<ByVersion, Error> {
        let request = AppVersionsByEndpointsRequest {
            correlation_id: new.correlation_id.to_string(),
            timestamp: runtime::now_ms(),
            timeout: patience_ms(),
            endpoint_ids: part.iter().map(ToString::to_string).collect(),
        };
        let asked = self.ask(EP_APP_VERSION_GET_REQUEST, EP_APP_VERSION_GET_RESPONSE, &request);
        let response: AppVersionsByEndpointsResponse = asked.await?;
        match response.status_code {
            200 => Ok(response.app_versions_to_endpoints),
            // It knows none of them.
            404 => Ok(ByVersion::new()),
            code => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(Error::RegisterUnavailable(format!("it answered {code} {reason}")))
            }
        }
    }

    /// The endpoints of the tenant among these, by application.
    async fn own(
        &self,
        new: &NewBatch,
        found: ByVersion,
    ) -> Result<BTreeMap<ApplicationName, Vec<EndpointId>>, Error> {
        let mut own: BTreeMap<ApplicationName, Vec<EndpointId>> = BTreeMap::new();
        for (version, endpoints) in found {
            let Ok(version) = AppVersionName::parse(&version) else { continue };
            match self.applications.version(&version).await {
                Ok(version) if version.tenant_id == new.tenant => {
                    let endpoints = endpoints.iter().filter_map(|endpoint| EndpointId::parse(endpoint).ok());
                    own.entry(version.app_name.clone()).or_default().extend(endpoints);
                }
                Ok(_) | Err(LookupError::Unknown) => {}
                Err(LookupError::Unavailable(reason)) => {
                    return Err(Error::RegisterUnavailable(format!("application {version}: {reason}")));
                }
            }
        }
        Ok(own)
    }

    async fn ask<Q: Record, R: Record>(
        &self,
        question: Message,
        answer: Message,
        request: &Q,
    ) -> Result<R, Error> {
        let subject = question.at(instance::EPR);
        let headers = runtime::trace::headers();
        let asked =
            self.context.requester().request(subject, answer, request.encode(), headers, REGISTER_PATIENCE);
        let message = asked.await.map_err(|error| Error::RegisterUnavailable(error.to_string()))?;
        R::decode(&message.payload).map_err(|error| Error::RegisterUnavailable(error.to_string()))
    }
}

fn patience_ms() -> i64 {
    i64::try_from(REGISTER_PATIENCE.as_millis()).unwrap_or(i64::MAX)
}

/// The application of all of them; none when there are none.
fn only(own: BTreeMap<ApplicationName, Vec<EndpointId>>) -> Result<Option<ApplicationName>, Error> {
    if own.len() > 1 {
        let names: Vec<&str> = own.keys().map(ApplicationName::as_str).collect();
        return Err(Error::Refused(format!(
            "the endpoints are of several applications ({}): make a batch for each",
            names.join(", ")
        )));
    }
    Ok(own.into_keys().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_one_application() {
        let of = |names: &[&str]| {
            only(names.iter().map(|name| (ApplicationName::parse(name).unwrap(), Vec::new())).collect())
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["meter"]).unwrap().unwrap().as_str(), "meter");
        assert!(of(&["meter", "pump"]).unwrap_err().to_string().contains("(meter, pump)"));
    }
}
