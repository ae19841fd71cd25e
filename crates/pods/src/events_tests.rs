use std::{collections::BTreeMap, task::Waker};

use types::{ContainerId, LinuxResources, SandboxId};

use super::*;
use crate::{
    clock::Clock,
    index::{ContainerFilter, Index, SandboxFilter},
    record::{ContainerState, Exit, SandboxPhase},
    task::PodHandle,
};

fn sandbox(id: &SandboxId, phase: SandboxPhase) -> Arc<SandboxRecord> {
    Arc::new(SandboxRecord {
        config: crate::recover::stand_in_config(id),
        created_at_ns: 1,
        phase,
        boot_id: String::new(),
        netns: None,
        network_owed: false,
        attachment: None,
        cgroup_parent: String::new(),
        owns_cgroup_parent: false,
        process: None,
        limits: LinuxResources::default(),
        damage: String::new(),
        id: id.clone(),
    })
}

fn container(pod: &SandboxId, id: &ContainerId, state: ContainerState) -> Arc<ContainerRecord> {
    let mut record = crate::recover::stand_in_container(pod, id, 1, "");
    record.state = state;
    Arc::new(record)
}

fn exited() -> ContainerState {
    ContainerState::Exited(Exit::unknown("", 2))
}

/// An index whose recovery is over.
fn index() -> Index {
    let index = Index::new(Arc::new(Clock::default()));
    assert!(index.end_of_recovery());
    index
}

/// What is in a queue now.
fn taken(queue: &mut Queue) -> Vec<Arc<PodEvent>> {
    let mut context = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(Some(Ok(event))) = queue.poll_next(&mut context) {
        events.push(event);
    }
    events
}

fn kinds(events: &[Arc<PodEvent>]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

/// A pod with a container lives and goes.
fn live(index: &Index) -> (SandboxId, ContainerId) {
    let (pod, id) = (SandboxId::random(), ContainerId::random());
    let handle = PodHandle::new().0;
    index.publish_sandbox(sandbox(&pod, SandboxPhase::Ready), handle.clone());
    for state in [
        ContainerState::Created,
        ContainerState::Starting,
        ContainerState::Running { pid: 1 },
        exited(),
        exited(),
    ] {
        index.publish_container(container(&pod, &id, state));
    }
    index.publish_sandbox(sandbox(&pod, SandboxPhase::NotReady), handle.clone());
    index.forget_container(&id);
    index.publish_sandbox(sandbox(&pod, SandboxPhase::Removing), handle);
    index.forget_sandbox(&pod);
    (pod, id)
}

#[test]
fn a_life_is_told_in_order_with_the_statuses_of_each_moment() {
    let index = index();
    let mut queue = index.join().unwrap();
    let (pod, id) = live(&index);
    let events = taken(&mut queue);
    let told: Vec<_> = events.iter().map(|e| (e.id.as_str(), e.kind)).collect();
    let (pod, id) = (pod.as_str(), id.as_str());
    let wanted = [
        (pod, EventKind::Created),
        (pod, EventKind::Started),
        (id, EventKind::Created),
        (id, EventKind::Started),
        (id, EventKind::Stopped),
        (pod, EventKind::Stopped),
        (id, EventKind::Deleted),
        (pod, EventKind::Deleted),
    ];
    assert_eq!(told, wanted);
    assert!(events.windows(2).all(|two| two[0].at_ns < two[1].at_ns));
    let states: Vec<_> = events
        .iter()
        .map(|e| (e.sandbox.is_ready(), e.containers.first().map(|c| StateKind::of(&c.state))))
        .collect();
    let wanted = [
        (true, None),
        (true, None),
        (true, Some(StateKind::Created)),
        (true, Some(StateKind::Running)),
        (true, Some(StateKind::Exited)),
        (false, Some(StateKind::Exited)),
        (false, None),
        (false, None),
    ];
    assert_eq!(states, wanted);
}

#[test]
fn what_does_not_start_is_stopped_without_having_started() {
    let index = index();
    let mut queue = index.join().unwrap();
    let (pod, id) = (SandboxId::random(), ContainerId::random());
    index.publish_sandbox(sandbox(&pod, SandboxPhase::NotReady), PodHandle::new().0);
    index.publish_container(container(&pod, &id, ContainerState::Created));
    index.publish_container(container(&pod, &id, ContainerState::Starting));
    index.publish_container(container(&pod, &id, exited()));
    let wanted = [EventKind::Created, EventKind::Stopped].repeat(2);
    assert_eq!(kinds(&taken(&mut queue)), wanted);
}

#[test]
fn all_hear_the_same_and_who_leaves_costs_nothing() {
    let index = index();
    let (mut one, mut other) = (index.join().unwrap(), index.join().unwrap());
    live(&index);
    let events = taken(&mut one);
    assert_eq!(events.len(), 8);
    let same = taken(&mut other);
    assert!(events.iter().zip(&same).all(|(a, b)| Arc::ptr_eq(a, b)));
    index.leave(one.number);
    index.leave(other.number);
    live(&index);
    assert_eq!(index.figures(), EventFigures { listeners: 0, told: 8, overrun: 0 });
}

#[test]
fn who_is_too_slow_is_told_so_after_what_was_queued_and_others_hear_on() {
    let index = index();
    let (mut slow, mut quick) = (index.join().unwrap(), index.join().unwrap());
    let mut heard = 0;
    while heard <= QUEUE {
        live(&index);
        heard += taken(&mut quick).len();
    }
    assert_eq!(index.figures().listeners, 1);
    assert_eq!(taken(&mut slow).len(), QUEUE);
    // `taken` has swallowed the error: a second look finds the end.
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(slow.poll_next(&mut context), Poll::Ready(None)));
    assert_eq!(index.figures().overrun, 1);

    let mut slow = index.join().unwrap();
    for _ in 0..=QUEUE / 8 {
        live(&index);
    }
    let error = loop {
        match slow.poll_next(&mut context) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(error, Error::Overrun(QUEUE)), "{error}");
}

#[test]
fn the_end_comes_after_what_was_queued_and_nobody_joins_then() {
    let index = index();
    let mut queue = index.join().unwrap();
    live(&index);
    index.close();
    assert_eq!(taken(&mut queue).len(), 8);
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(queue.poll_next(&mut context), Poll::Ready(None)));
    assert!(matches!(index.join(), Err(Error::Stopping)));
}

#[test]
fn there_are_not_more_listeners_than_the_limit() {
    let index = index();
    let all: Vec<_> = (0..LISTENERS).map(|_| index.join().unwrap()).collect();
    assert!(matches!(index.join(), Err(Error::TooManyListeners(LISTENERS))));
    index.leave(all[0].number);
    index.join().unwrap();
}

#[test]
fn what_a_recovery_found_is_told_to_all_who_come_soon() {
    let index = Index::new(Arc::new(Clock::default()));
    let (pod, ended, stays) = (SandboxId::random(), ContainerId::random(), ContainerId::random());
    let running = |id| container(&pod, id, ContainerState::Running { pid: 1 });
    let records = [running(&ended), running(&stays)];
    let handle = PodHandle::new().0;
    index.found(sandbox(&pod, SandboxPhase::Ready), handle.clone(), records);
    index.publish_container(container(&pod, &ended, exited()));
    index.publish_container(running(&stays));
    index.publish_sandbox(sandbox(&pod, SandboxPhase::Ready), handle);
    assert!(index.end_of_recovery());
    for _ in 0..2 {
        let mut queue = index.join().unwrap();
        let events = taken(&mut queue);
        assert_eq!(kinds(&events), [EventKind::Stopped]);
        assert_eq!((events[0].id.as_str(), events[0].containers.len()), (ended.as_str(), 2));
    }
    index.forget_recovered();
    assert!(taken(&mut index.join().unwrap()).is_empty());
}

/// Whatever happens in whatever order: the events, replayed, give what is listed.
#[test]
fn replayed_events_give_the_lists() {
    // A small generator of numbers: the runs are the same each time.
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let index = index();
    let mut queue = index.join().unwrap();
    let pods: Vec<_> = (0..4).map(|_| SandboxId::random()).collect();
    let ids: Vec<_> = (0..8).map(|_| ContainerId::random()).collect();
    let (mut ready, mut states) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..5000 {
        let at = usize::try_from(random(8)).unwrap();
        let (pod, id) = (&pods[at / 2], &ids[at]);
        match random(6) {
            0 => {
                let phase = [SandboxPhase::Ready, SandboxPhase::NotReady][at % 2];
                index.publish_sandbox(sandbox(pod, phase), PodHandle::new().0);
            }
            1 if at == 0 => {
                ids[..2].iter().for_each(|id| index.forget_container(id));
                index.forget_sandbox(pod);
            }
            2 => index.forget_container(id),
            _ if index.sandbox(pod.as_str()).unwrap().is_none() => {}
            3 if index.container(id.as_str()).unwrap().is_none() => {
                index.publish_container(container(pod, id, ContainerState::Created));
            }
            3 | 4 => {
                let running = ContainerState::Running { pid: 1 };
                let now = index.container(id.as_str()).unwrap();
                // What has ended does not run again.
                if now.is_none_or(|(r, _)| StateKind::of(&r.state) != StateKind::Exited) {
                    index.publish_container(container(pod, id, running));
                }
            }
            _ => index.publish_container(container(pod, id, exited())),
        }
        for event in taken(&mut queue) {
            let is_sandbox = event.sandbox.id.as_str() == event.id;
            let state = match event.kind {
                EventKind::Created => Some(StateKind::Created),
                EventKind::Started => Some(StateKind::Running),
                EventKind::Stopped => Some(StateKind::Exited),
                EventKind::Deleted => None,
            };
            match (is_sandbox, state) {
                (true, Some(state)) => {
                    ready.insert(event.id.clone(), state == StateKind::Running);
                }
                (true, None) => {
                    ready.remove(&event.id);
                }
                (false, Some(state)) => {
                    states.insert(event.id.clone(), state);
                }
                (false, None) => {
                    states.remove(&event.id);
                }
            }
        }
        let pods = index.sandboxes(&SandboxFilter::default());
        let listed: BTreeMap<_, _> =
            pods.iter().map(|r| (r.id.to_string(), r.is_ready())).collect();
        assert_eq!(ready, listed);
        let containers = index.containers(&ContainerFilter::default());
        let listed: BTreeMap<_, _> =
            containers.iter().map(|r| (r.id.to_string(), StateKind::of(&r.state))).collect();
        assert_eq!(states, listed);
    }
}
