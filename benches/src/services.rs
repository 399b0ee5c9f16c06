//! The worker against doubles of each push service that answer at once, and after a while.

use std::ops::Deref;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use doubles::{APNS_KEY, APNS_KEY_ID, APNS_TEAM, APNS_TOPIC, Apns, Double, Fcm, Gateway, Subscriber, WebPush};
use pushlark_benches::input::{USERS, user};
use serde_json::{Value, json};

use crate::build::Binaries;
use crate::function::Function;
use crate::lambda_event::batch;
use crate::table::Table;
use crate::world::World;

const HOLDS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(50)];
/// Invocations per round, each of 10 records of 25 recipients.
const INVOCATIONS: u64 = 8;
const ROUNDS: u64 = 3;

/// The doubles of all services.
struct Services {
    apns: Apns,
    fcm: Fcm,
    web_push: WebPush,
    receiver: Gateway,
}

/// Measures each service, and prints a table.
pub async fn measure(binaries: &Binaries) -> anyhow::Result<()> {
    let services = Services {
        apns: Apns::start().await,
        fcm: Fcm::start().await,
        web_push: WebPush::start().await,
        receiver: Gateway::webhook().await,
    };
    let doubles: [(&str, &Double); 4] = [
        ("apns", services.apns.deref()),
        ("fcm", services.fcm.deref()),
        ("web-push", services.web_push.deref()),
        ("webhook", services.receiver.deref()),
    ];
    let world = World::with(&[("WEB_PUSH_TRUSTED_ORIGINS", &services.web_push.url)]).await?;
    let mut table = Table::new(["push service", "answers after", "notifications/s", "CPU-s/1,000", "connections"]);
    for (name, double) in doubles {
        double.count_only();
        for number in 0..USERS {
            world.enable(&user(number), services.form(name, number)).await?;
        }
        for hold in HOLDS {
            double.hold(hold);
            let mut environment = world.environment();
            let push_service = if name == "webhook" { services.receiver.url.as_str() } else { "direct" };
            let own = [
                ("PUSH_SERVICE", push_service.to_owned()),
                ("PUSH_SERVICE_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
                ("PUSH_CREDENTIALS", services.credentials().to_string()),
                ("WEB_PUSH_TRUSTED_ORIGINS", services.web_push.url.clone()),
                ("WORKER_CONCURRENCY", "250".into()),
            ];
            environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
            let connections = double.connections();
            let function = Function::start(Command::new(binaries.path("worker")?), &environment).await?;
            let (mut per_second, mut seconds) = (0.0_f64, f64::INFINITY);
            // The first round is for warming up.
            for round in 0..=ROUNDS {
                let first = round * INVOCATIONS;
                let events: anyhow::Result<Vec<_>> = (first..first + INVOCATIONS)
                    .map(|number| Ok(batch(number, 10, 25)?.to_string().into_bytes()))
                    .collect();
                let (before, cpu, start) = (double.count(), function.cpu()?, Instant::now());
                function.runtime_api.invoke(events?).await?;
                let (cpu, wall) = (function.cpu()? - cpu, start.elapsed());
                function.check_log()?;
                let came = double.count() - before;
                ensure!(came == INVOCATIONS * 250, "{name}: {came} notifications came");
                if round > 0 {
                    per_second = per_second.max(came as f64 / wall.as_secs_f64());
                    seconds = seconds.min(cpu.as_secs_f64() * 1e3 / came as f64);
                }
            }
            table.row([
                name.into(),
                format!("{} ms", hold.as_millis()),
                format!("{per_second:.0}"),
                format!("{seconds:.3}"),
                (double.connections() - connections).to_string(),
            ]);
            eprintln!("{name}, {hold:?}: measured");
        }
    }
    println!("{table}");
    Ok(())
}

impl Services {
    fn credentials(&self) -> Value {
        let apns = json!({"team_id": APNS_TEAM, "key_id": APNS_KEY_ID, "key": APNS_KEY, "topic": APNS_TOPIC, "url": self.apns.url});
        let web_push = json!({"key": APNS_KEY, "subject": "mailto:push@example.com"});
        json!({"default": {"apns": apns, "fcm": self.fcm.service_account(), "web_push": web_push}})
    }

    fn form(&self, service: &str, number: u64) -> Value {
        let device = format!("{number:016x}");
        if service != "web-push" {
            return json!({"service": service, "device_id": device});
        }
        let browser = Subscriber::new(9);
        json!({"service": service, "endpoint": self.web_push.endpoint(&device), "p256dh": browser.p256dh(), "auth": browser.auth()})
    }
}
