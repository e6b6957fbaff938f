//! The catalogue and `proto-schemas/` say the same.

use std::collections::BTreeSet;
use std::path::Path;

use apache_avro::Schema;
use ids::{InstanceName, ReplicaId, TimeSeriesName};
use ism::{Address, CATALOGUE, efe, esp, scmp, tstp};

use crate::oracle;

/// `<protocol>/<record>` of all files of a directory of `proto-schemas/`.
fn files(directory: &str, extension: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto-schemas").join(directory);
    let mut names = BTreeSet::new();
    for protocol in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(protocol.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(path.extension().unwrap(), extension, "{}", path.display());
            let protocol = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
            names.insert(format!("{protocol}/{}", path.file_stem().unwrap().to_str().unwrap()));
        }
    }
    names
}

#[test]
fn every_file_is_a_line_and_every_line_a_file() {
    let lines: BTreeSet<String> =
        CATALOGUE.iter().map(|entry| format!("{}/{}", entry.protocol, entry.record)).collect();
    assert_eq!(lines.len(), CATALOGUE.len());
    assert_eq!(lines, files("avro", "avsc"));
    assert_eq!(lines, files("vectors", "json"));
}

/// `appVersionName` to `app_version_name`, `tenantID` to `tenant_id`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut before = '_';
    for c in name.chars() {
        if c.is_ascii_uppercase() && !before.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        before = c;
    }
    snake
}

#[test]
fn structs_have_the_fields_of_their_schemas_in_that_order() {
    for entry in CATALOGUE {
        let Schema::Record(record) = oracle::schema(entry) else { panic!("{} is no record", entry.record) };
        assert_eq!(record.name.name(), entry.record);
        let names: Vec<String> = record.fields.iter().map(|field| snake_case(&field.name)).collect();
        assert_eq!(names, entry.fields, "{}", entry.record);
        assert!(
            record.doc.is_some() && record.fields.iter().all(|field| field.doc.is_some()),
            "{}",
            entry.record
        );
    }
}

#[test]
fn the_subjects_are_the_golden_ones() {
    let mut lines: Vec<String> = Vec::new();
    for entry in CATALOGUE {
        let record = format!("{}/{}", entry.protocol, entry.record);
        lines.extend(entry.addresses.iter().map(|address| format!("{} {record}\n", address.pattern())));
    }
    lines.sort();
    let expected = lines.concat();
    let golden = include_str!("../../../../proto-schemas/subjects.txt");
    assert!(expected == golden, "proto-schemas/subjects.txt should read:\n{expected}");
}

#[test]
fn subjects_are_those_of_3_ism() {
    let instance = InstanceName::parse("dcx").unwrap();
    let replica = ReplicaId::parse("kpc-0").unwrap();
    let series = TimeSeriesName::parse("auto~temperature").unwrap();
    assert_eq!(esp::CLIENT_DATA.service(&instance), "kaa.v1.service.dcx.esp.ClientData");
    assert_eq!(esp::EXTENSION_DATA.at(ism::subject::instance::KPC), "kaa.v1.service.kpc.esp.ExtensionData");
    assert_eq!(esp::EXTENSION_DATA.replica(&replica), "kaa.v1.replica.kpc-0.esp.ExtensionData");
    let by_dcx = esp::EXTENSION_DATA.by(&instance);
    assert_eq!(by_dcx.at(ism::subject::instance::KPC), "kaa.v1.service.kpc.esp.dcx.ExtensionData");
    assert_eq!(by_dcx.replica(&replica), "kaa.v1.replica.kpc-0.esp.dcx.ExtensionData");
    assert_eq!(by_dcx.reply(&replica, 7), "kaa.v1.replica.kpc-0.esp.dcx.7.ExtensionData");
    assert_eq!(ism::ecap::EP_TOKEN_REVOKED.of_any(), "kaa.v1.events.*.endpoint.token.revoked");
    assert_eq!(
        tstp::data_points_received(&instance, &series),
        "kaa.v1.events.dcx.endpoint.data-collection.data-points-received.auto~temperature"
    );
    assert_eq!(efe::EP_MATCHED.of(&instance, "f-1"), "kaa.v1.events.dcx.endpoint-filter.f-1.ep-matched");
    assert_eq!(efe::ACTIVATED.of_any(), "kaa.v1.events.*.endpoint-filter.*.activated");
    for event in [scmp::UPSERTED, scmp::DELETED] {
        let listened = scmp::CONFIGURATION_EVENTS.strip_suffix('*').unwrap();
        assert!(event.of_any().starts_with(listened));
        assert!(Address::Event(event).pattern().ends_with(event.event_type));
    }
}
