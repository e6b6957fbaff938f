
use super::*;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed() {
    let bed = Arc::new(Bed::new(Config::default()).await);
    let cpu = async |bed: &Bed| {
        let pids: Vec<i32> = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE datname = current_database()").fetch_all(&bed.pool).await.unwrap();
        pids.iter().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()).map(|stat| { let f: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect(); f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap() }).sum::<u64>()
    };
    let own = || { let stat = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect(); f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap() };
    for rate in [100_u64, 1000, 1000, 2000] {
        let before = (cpu(&bed).await, own());
        let started = std::time::Instant::now();
        let mut tasks = Vec::new();
        let mut interval = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
        for index in 0..rate * 5 {
            interval.tick().await;
            let bed = bed.clone();
            tasks.push(tokio::spawn(async move {
                let lane = lane(&format!("e{}", index % 500), "reboot");
                let began = std::time::Instant::now();
                let (name, claim) = bed.invoke(command(&lane)).await;
                let t1 = began.elapsed();
                if let Some(claim) = claim { bed.ledger.settle(claim, Pushed::Delivered).await.unwrap(); }
                bed.ledger.results(&lane, vec![result(name.command_id)]).await.unwrap();
                (t1, began.elapsed())
            }));
        }
        let mut times = Vec::new();
        for task in tasks { times.push(task.await.unwrap()); }
        let took = started.elapsed();
        let mut first: Vec<_> = times.iter().map(|t| t.0).collect(); first.sort();
        let mut all: Vec<_> = times.iter().map(|t| t.1).collect(); all.sort();
        let after = (cpu(&bed).await, own());
        let commits: i64 = sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").fetch_one(&bed.pool).await.unwrap();
        eprintln!("rate {rate}: took {took:?}, pg cpu {} ticks, own {} ticks; invoke p50 {:?} p99 {:?}; all p50 {:?} p99 {:?} commits {commits}", after.0 - before.0, after.1-before.1, first[first.len()/2], first[first.len()*99/100], all[all.len()/2], all[all.len()*99/100]);
    }

    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as("SELECT relname::text, seq_scan, seq_tup_read, idx_scan FROM pg_stat_user_tables").fetch_all(&bed.pool).await.unwrap();
    for row in rows { eprintln!("STAT {row:?}"); }
}
