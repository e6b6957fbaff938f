"""A good request for each REST operation, so that whoever is refused is not refused for a bad one.

`{name}` stands for a thing of the tenant that the walk is about, as in the paths. Most
operations without a body need no line here.
"""

EXAMPLES = {
    # tekton
    "GET /tekton/api/v1/app-configs": {"query": {"appName": "{appName}"}},
    "POST /tekton/api/v1/app-configs": {
        "body": {"epts": {"kaa": {"applications": {"{appName}": {"time-series": {"auto-extract": False}}}}}}
    },
    "PUT /tekton/api/v1/app-configs/applications/{appName}": {"body": {}},
    "PATCH /tekton/api/v1/app-configs/applications/{appName}": {
        "query": {"serviceInstanceName": "epts"},
        "body": {"epts": {"kaa": {"applications": {"{appName}": {"time-series": {"auto-extract": True}}}}}},
    },
    "PUT /tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}": {"body": {}},
    "PATCH /tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}": {
        "query": {"serviceInstanceName": "epts"},
        "body": {},
    },
    "POST /tekton/api/v1/applications": {"body": {"displayName": "walk"}},
    "PATCH /tekton/api/v1/applications/{appName}": {"body": {"displayName": "walk"}},
    "POST /tekton/api/v1/applications/{appName}/app-versions": {"body": {"nameSuffix": "walk"}},
    "PATCH /tekton/api/v1/applications/{appName}/app-versions/{appVersionName}": {
        "body": {"displayName": "walk"}
    },
    "DELETE /tekton/api/v1/applications/{appName}": {"query": {"cascade": "true"}},
    "GET /tekton/api/v1/bulk": {"query": {"appName": "{appName}", "include": "appConfigs"}},
    "PUT /tekton/api/v1/tenant-configs": {"body": {}},
    "PATCH /tekton/api/v1/tenant-configs": {"query": {"serviceInstanceName": "kpc"}, "body": {}},
    # epr
    "POST /epr/api/v1/applications/{applicationName}/filters": {"body": {"name": "walk", "mongoQuery": {}}},
    "PATCH /epr/api/v1/applications/{applicationName}/filters/{filterId}": {"body": {"description": "walk"}},
    "GET /epr/api/v1/endpoints": {"query": {"endpointId": "{endpointId}", "include": "metadata"}},
    "POST /epr/api/v1/endpoints": {"body": {"appVersion": {"name": "{appVersionName}"}}},
    "POST /epr/api/v1/endpoints/batch": {
        "body": {"appVersion": {"name": "{appVersionName}"}, "endpoints": [{}]}
    },
    "GET /epr/api/v1/endpoints/batch/status": {"query": {"appName": "{appName}", "taskId": "{taskId}"}},
    "POST /epr/api/v1/endpoints/delete": {"body": {"endpointIds": ["{doomedEndpointId}"]}},
    "POST /epr/api/v1/endpoints/search": {"body": {"endpointIds": ["{endpointId}"], "include": ["metadata"]}},
    "PUT /epr/api/v1/endpoints/{endpointId}/app-version": {"body": {"name": "{otherVersionName}"}},
    "PUT /epr/api/v1/endpoints/{endpointId}/metadata": {"body": {"name": "walk"}},
    "PATCH /epr/api/v1/endpoints/{endpointId}/metadata": {
        "body": [{"op": "add", "path": "/name", "value": "walk"}],
        "headers": {"Content-Type": "application/json-patch+json"},
    },
    "PUT /epr/api/v1/endpoints/{endpointId}/metadata/{key}": {"body": "walk"},
    "PUT /epr/api/v1/relations/link": {
        "body": [{"type": "contains", "from": "{endpointId}", "to": "{spareEndpointId}"}]
    },
    "PUT /epr/api/v1/relations/unlink": {
        "body": [{"type": "contains", "from": "{endpointId}", "to": "{containedEndpointId}"}]
    },
    # cm
    "POST /cm/api/v1/endpoints/{endpointId}/tokens": {"body": {"applicationName": "{appName}"}},
    "PUT /cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}/status": {
        "body": {"status": "Suspended"}
    },
    # epts
    "PUT /epts/api/v1/app-versions/{appVersionName}/time-series/data": {
        "body": {"{endpointId}": {"auto~n": [{"values": {"value": 7}}]}}
    },
    "GET /epts/api/v1/applications/{applicationName}/time-series/data": {
        "query": {"timeSeriesName": "auto~n", "fromDate": "1970-01-01T00:00:00Z", "toDate": "now"}
    },
    "GET /epts/api/v1/applications/{applicationName}/time-series/last": {
        "query": {"timeSeriesName": "auto~n"}
    },
    "POST /epts/api/v1/applications/{applicationName}/time-series/last": {
        "body": {"timeSeriesNames": ["auto~n"]}
    },
    "GET /epts/api/v1/applications/{applicationName}/unextracted-samples": {
        "query": {"fromDate": "1970-01-01T00:00:00Z", "toDate": "now"}
    },
    "GET /epts/api/v1/time-series/config": {"query": {"applicationNames": "{appName}"}},
    # cex: without waiting, as no device answers
    "POST /cex/api/v1/endpoints/{endpointId}/commands/{commandType}": {
        "query": {"awaitTimeout": "0"},
        "body": {"n": 1},
    },
    "PUT /cex/api/v1/things/{thingName}": {"body": {"endpointId": "{endpointId}"}},
    "PUT /cex/api/v1/groups/{groupName}": {
        "body": {"filterId": "{filterId}", "applicationName": "{appName}"}
    },
    "PUT /cex/api/v1/commanders/{credentialsId}": {"body": {}},
    "GET /cex/api/v1/applications/{applicationName}/events": {"query": {"duration": "0"}},
    "GET /cex/api/v1/endpoints/commands": {"query": {"endpointId": "{endpointId}"}},
    "POST /cex/api/v1/endpoints/commands/last": {"body": {"endpointIds": ["{endpointId}"]}},
    "POST /cex/api/v1/endpoints/commands/{commandType}/batch": {
        "query": {"filterId": "{filterId}"},
        "body": {"n": 1},
    },
    "POST /cex/api/v1/endpoints/commands/{commandType}/batch/by-filter": {
        "query": {"filterId": "{filterId}", "ratePerSecond": "1"},
        "body": {"n": 1},
    },
    "POST /cex/api/v1/endpoints/commands/{commandType}/batch/by-endpoints": {
        "body": {"payload": {"n": 1}, "endpointIds": ["{endpointId}"]}
    },
    "GET /cex/api/v1/endpoints/commands/batch/tasks": {"query": {"appName": "{appName}"}},
    "GET /cex/api/v1/endpoints/commands/batch/tasks/{taskId}": {"query": {"appName": "{appName}"}},
    "GET /cex/api/v1/endpoints/commands/batch/tasks/{taskId}/results": {"query": {"appName": "{appName}"}},
    "DELETE /cex/api/v1/endpoints/commands/batch/tasks/{taskId}": {"query": {"appName": "{appName}"}},
    # tm
    "POST /api/v2/tenants": {"body": {"tenantId": "{newTenantId}"}},
    "PUT /api/v2/tenants/{tenantId}": {"body": {"name": "walk"}},
    "POST /api/v2/users": {"body": {"username": "walk", "password": "a password of people"}},
    "PUT /api/v2/users/{userId}": {"body": {"name": "walk"}},
    "PUT /api/v2/users/{userId}/password": {"body": {"newPassword": "another password"}},
    "POST /tm/api/v1/api-keys": {"body": {"name": "walk", "role": "viewer"}},
    "PUT /tm/api/v1/me/password": {
        "body": {"currentPassword": "a password of people", "newPassword": "another password"}
    },
    # ccm
    "POST /ccm/api/v1/basic-credentials": {"body": {"username": "walk"}},
    "PUT /ccm/api/v1/basic-credentials/{credentialsId}/password": {"body": {}},
    "PUT /ccm/api/v1/basic-credentials/{credentialsId}/state": {"body": {"state": "Suspended"}},
    "POST /ccm/api/v1/x509-credentials": {"body": {"commonName": "walk"}},
    "PUT /ccm/api/v1/x509-credentials/{credentialsId}/state": {"body": {"state": "Suspended"}},
    # The body registers an authority of one's own; without one the platform makes it.
    "POST /ccm/api/v1/x509-credentials/authorities": {},
    "PUT /ccm/api/v1/x509-credentials/authorities/{authorityId}/state": {"body": {"state": "Suspended"}},
}
