//! The policy, driven through every order of events that chance makes.

use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(7200);
const LIMIT: RateLimit = RateLimit::new(4, Duration::from_secs(600));

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Missing,
    Expiring,
    /// The current token was rejected, or one that was replaced already.
    Rejected {
        current: bool,
        standing: Standing,
        gate: Gate,
    },
    /// The flight in the air ends.
    Land(Ending),
    /// Its task, or the runtime of its task, goes away.
    Lose,
}

#[derive(Clone, Debug)]
enum Ending {
    New,
    Free,
    Same,
    Fail(TokenError),
}

fn step() -> impl Strategy<Value = Step> {
    let standing = prop_oneof![
        4 => Just(Standing::Plain),
        1 => Just(Standing::Suspect),
        1 => Just(Standing::Marked),
    ];
    let gate = prop_oneof![
        4 => Just(Gate::Open),
        1 => Just(Gate::Unasked),
        1 => Just(Gate::Granted),
        1 => Just(Gate::Refused),
    ];
    let failure = prop_oneof![
        Just(TokenError::api(-1, "busy")),
        Just(TokenError::api(40164, "invalid ip")),
        Just(TokenError::api(45009, "quota")),
        Just(TokenError::api(45011, "a minute")),
        Just(TokenError::transport("reset")),
        Just(TokenError::Panicked),
        Just(TokenError::OverBudget),
    ];
    let ending = prop_oneof![
        4 => Just(Ending::New),
        1 => Just(Ending::Free),
        1 => Just(Ending::Same),
        3 => failure.prop_map(Ending::Fail),
    ];
    prop_oneof![
        3 => prop_oneof![0..5_000_u64, 0..120_000_u64, 0..4_000_000_u64].prop_map(Step::Wait),
        1 => Just(Step::Missing),
        1 => Just(Step::Expiring),
        4 => (any::<bool>(), standing, gate)
            .prop_map(|(current, standing, gate)| Step::Rejected { current, standing, gate }),
        5 => ending.prop_map(Step::Land),
        1 => Just(Step::Lose),
    ]
}

/// The policy and the world around it.
struct Driven {
    policy: Policy,
    now: Instant,
    current: Option<Cached>,
    made: u32,
    /// The flight in the air: when it is overdue, and whether it is counted.
    flight: Option<(Departure, bool)>,
    /// When a refresh took off that was counted and not given back.
    counted: Vec<Instant>,
}

impl Driven {
    fn new(seed: u64) -> Self {
        let settings = Settings {
            refresh_before: None,
            issue_timeout: Duration::from_secs(10),
            refresh_limit: LIMIT,
        };
        Driven {
            policy: Policy::new(settings, seed),
            now: Instant::now(),
            current: None,
            made: 0,
            flight: None,
            counted: Vec::new(),
        }
    }

    fn live(&self) -> Option<AccessToken> {
        let current = self.current.as_ref()?;
        let lives = current.token.lives_at(self.now);
        lives.then(|| current.token.clone())
    }

    /// Made now, by the clock of this world.
    fn token(&mut self) -> AccessToken {
        self.made += 1;
        AccessToken::made_at(format!("token-{}", self.made), self.now, LIFE)
    }

    fn ask(&mut self, why: &Why, asker: Asker) -> Decision {
        let (decision, _) = self.policy.ask(why, self.current.as_ref(), asker, self.now);
        let live = self.live();
        let in_air = self.flight.as_ref();
        let in_air = in_air.is_some_and(|(departure, _)| self.now < departure.overdue);
        let forced = live.is_some() && why.rejected() == live.as_ref();
        match &decision {
            Decision::Have(token) => {
                assert_eq!(live.as_ref(), Some(token), "only what lives is given");
            }
            Decision::Join => assert!(in_air),
            Decision::Refuse(error) => {
                // Who has a good token is never refused.
                assert!(live.is_none() || forced || why.is_renewal(), "{error}");
            }
            Decision::AskGate => assert!(forced && asker.gate == Gate::Unasked),
            Decision::TakeOff(departure) => {
                assert!(!in_air, "one flight at a time");
                if forced {
                    assert_ne!(asker.standing, Standing::Marked);
                    assert!(matches!(asker.gate, Gate::Open | Gate::Granted));
                    self.counted.push(self.now);
                }
                self.flight = Some((departure.clone(), forced));
            }
        }
        decision
    }

    fn land(&mut self, ending: &Ending) {
        let Some((departure, counted)) = self.flight.take() else {
            return;
        };
        let outcome = match (ending, departure.why.rejected()) {
            (Ending::Fail(error), _) => Err(error.clone()),
            (Ending::Same, Some(rejected)) => Ok(rejected.clone()),
            (Ending::Free, _) => Ok(self.token().at_no_cost()),
            _ => Ok(self.token()),
        };
        let landed = self.policy.landed(departure.id, &outcome, self.now);
        let landed = landed.expect("it was in the air");
        if let (Ok(token), Some(renew_at)) = (outcome, landed.renew_at) {
            assert!(renew_at <= token.expires_at());
            self.current = Some(Cached { token, renew_at });
            assert_eq!(self.policy.last_error().map(ToString::to_string), None);
        }
        if landed.free && counted {
            self.counted.pop();
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(milliseconds) => self.now += Duration::from_millis(*milliseconds),
            Step::Missing => {
                self.ask(&Why::Missing, Asker::default());
            }
            Step::Expiring => {
                if let Some(live) = self.live() {
                    self.ask(&Why::Expiring(live), Asker::default());
                }
            }
            Step::Rejected {
                current,
                standing,
                gate,
            } => {
                let rejected = match (current, self.live()) {
                    (true, Some(live)) => live,
                    _ => AccessToken::made_at("token-0".to_owned(), self.now, LIFE),
                };
                let asker = Asker {
                    standing: *standing,
                    gate: *gate,
                };
                let live = self.live();
                let decision = self.ask(&Why::Rejected(rejected.clone()), asker);
                if let Some(live) = live.filter(|live| *live != rejected) {
                    // M3: whoever reports an old token gets the one of now.
                    assert!(matches!(decision, Decision::Have(token) if token == live));
                }
            }
            Step::Land(ending) => self.land(ending),
            Step::Lose => {
                if let Some((departure, _)) = self.flight.take() {
                    self.policy.lost(departure.id);
                    assert!(!self.policy.is_in_air(departure.id));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn m10_no_order_of_events_breaks_a_rule(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = Driven::new(seed);
        for step in &steps {
            world.step(step);
        }
        // M6: however the rejections came, no 24 hours had more than the limit allows.
        let day = Duration::from_secs(24 * 60 * 60);
        let most = LIMIT.burst() as usize + (day.as_secs() / LIMIT.per().as_secs()) as usize;
        for (number, from) in world.counted.iter().enumerate() {
            let of_day = world.counted[number..].iter().filter(|at| **at < *from + day);
            prop_assert!(of_day.count() <= most);
        }
        // M5: no error ends refreshing for good.
        world.land(&Ending::Fail(TokenError::api(40164, "")));
        world.now += LIFE + Duration::from_secs(601);
        let decision = world.ask(&Why::Missing, Asker::default());
        prop_assert!(matches!(decision, Decision::TakeOff(_)));
        world.land(&Ending::New);
        prop_assert!(world.live().is_some());
    }
}
