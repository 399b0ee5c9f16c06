//! AWS Lambda with one function, a plugin (API reference, `Invoke`).

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Answer, Double, Hold, Request};

/// The name of the only function.
pub const FUNCTION: &str = "my-plugin";

/// A double of Lambda with one function, a plugin.
#[derive(Clone)]
pub struct Lambda {
    double: Double,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Behaviour,
    /// The events of each call, in order.
    calls: Vec<Vec<Value>>,
}

/// The result of each call of the function.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// The handler returns the response.
    Handler(Handler),
    /// Each event gets this answer.
    Each(Value),
    /// The whole answer: a status and a body.
    Answers(u16, &'static str),
    /// The response reports an error of the function.
    Fails,
    /// The function answers each event by `{}`, after this time.
    Takes(Duration),
    /// The function never answers.
    Hangs,
}

/// Code that turns the body of a request into the body of an answer.
#[derive(Clone)]
pub struct Handler(pub Arc<dyn Fn(&str) -> String + Send + Sync>);

impl fmt::Debug for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Handler")
    }
}

impl std::ops::Deref for Lambda {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Lambda {
    /// Starts the double on a free port of the loopback address.
    pub async fn start(behaviour: Behaviour) -> Self {
        let state = Arc::new(Mutex::new(State { behaviour: behaviour.clone(), calls: Vec::new() }));
        let shared = Arc::clone(&state);
        let invoke = move |_: &str, request: &Request| (FUNCTION.to_owned(), shared.lock().unwrap().invoke(request));
        let lambda = Self { double: Double::start(1_000, invoke).await, state };
        lambda.behave(behaviour);
        lambda
    }

    /// Changes the behaviour of the function, also for the calls that hang.
    pub fn behave(&self, behaviour: Behaviour) {
        self.hold(match behaviour {
            Behaviour::Takes(time) => time,
            Behaviour::Hangs => Hold::FOREVER,
            _ => Duration::ZERO,
        });
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// The events of each call, answered or not, the oldest first.
    pub fn calls(&self) -> Vec<Vec<Value>> {
        self.state.lock().unwrap().calls.clone()
    }
}

impl State {
    fn invoke(&mut self, request: &Request) -> Answer {
        assert_eq!(request.path, format!("/2015-03-31/functions/{FUNCTION}/invocations"));
        let body = request.json();
        assert_eq!(body["version"], 1);
        let events = body["events"].as_array().unwrap().clone();
        let each = |answer: &Value| Answer::json(200, &json!({"events": vec![answer; events.len()]}));
        let answer = match &self.behaviour {
            Behaviour::Handler(handler) => Answer::text(200, &(handler.0)(&body.to_string())),
            Behaviour::Each(answer) => each(answer),
            Behaviour::Answers(status, body) => Answer::text(*status, body),
            Behaviour::Fails => {
                let error = json!({"errorMessage": "canary: boom", "errorType": "KeyError"});
                Answer::json(200, &error).with("x-amz-function-error", "Unhandled")
            }
            Behaviour::Takes(_) | Behaviour::Hangs => each(&json!({})),
        };
        self.calls.push(events);
        answer
    }
}
