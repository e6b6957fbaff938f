//! Traces, metrics and logs reach an OTLP receiver, and `/metrics` shows the metrics.

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use runtime::telemetry::{self, Config};
use runtime::trace;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// An OTLP receiver that hands on, as text, what it is sent.
#[derive(Clone)]
struct Receiver(mpsc::Sender<String>);

impl Receiver {
    async fn take(&self, request: impl std::fmt::Debug) {
        self.0.send(format!("{request:?}")).await.unwrap();
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner()).await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(request.into_inner()).await;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(request.into_inner()).await;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_arrives() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (sender, mut received) = mpsc::channel(64);
    let receiver = Receiver(sender);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .add_service(LogsServiceServer::new(receiver))
            .serve(address),
    );

    let config = Config {
        otlp_endpoint: Some(format!("http://{address}")),
        trace_sample_ratio: 0.0,
        ..Config::default()
    };
    let installed = telemetry::install(&config).unwrap();
    let meter = opentelemetry::global::meter("test");
    meter.u64_counter("bandar_test_ships").build().add(3, &[]);
    let span = tracing::info_span!("moor");
    // The sender's decision to sample is kept, and travels on in the headers of messages.
    trace::adopt_traceparent(&span, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    span.in_scope(|| {
        tracing::info!("a ship has moored");
        let headers = trace::headers().unwrap();
        assert!(headers.get("traceparent").unwrap().as_str().contains("0af7651916cd43dd8448eb211c80319c"));
    });
    drop(span);
    assert_eq!(trace::headers(), None, "what is not sampled carries nothing");
    let families = installed.registry().gather();
    assert!(families.iter().any(|family| family.name().contains("bandar_test_ships")));

    tokio::task::spawn_blocking(|| installed.shutdown()).await.unwrap();
    let mut all = String::new();
    while !(all.contains("moor\"") && all.contains("bandar_test_ships") && all.contains("a ship has moored"))
    {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), received.recv()).await;
        all.push_str(&next.unwrap_or_else(|_| panic!("only this came: {all}")).unwrap());
    }
}
