"""Engine 8: adders, readers, gc, repack and kill -9 at work on one vat. Nothing that a vref names is ever lost, no add waits for gc."""
import os
import random
import subprocess
import threading
import time

import kills
import lab as laboratory
import verbs

ADDS = 30  # of each case, by three adders


class Worker(threading.Thread):
    """Runs commands until `work` has no more; what it raises is kept."""

    def __init__(self, work):
        super().__init__()
        self.work, self.failure = work, None
        self.start()

    def run(self):
        try:
            self.work()
        except Exception as error:  # pylint: disable=broad-except
            self.failure = error

    def done(self):
        self.join()
        if self.failure:
            raise laboratory.Failed(str(self.failure))


def cases(lab):
    for i in range(max(1, round(lab.effort * 2))):
        yield f"kill:{i}"
        yield f"wait:{i}"


def run(lab, case):
    kind, number = case.split(":")
    verb = verbs.named(lab, "add-dir")
    lab.fresh(verb)
    os.mkdir(f"{lab.top}/files")
    over = threading.Event()
    killing = kind == "kill"
    vrefs, waits = {}, lab.path("waits")
    if os.path.exists(waits):
        os.remove(waits)

    def add(adder):
        chance = random.Random(f"{lab.seed} {lab.case} {adder}")
        for i in range(ADDS // 3 if killing else ADDS):
            name = f"{adder}-{i}"
            # Some of it was added and given up before, so that it may be condemned just now.
            lab.put(f"{lab.top}/files/{name}", random.Random(chance.randrange(8)).randbytes(30000) + chance.randbytes(chance.choice((0, 100, 30000))))
            command = ["shrub", "add", f"files/{name}", f"s/{name}.vref"]
            if killing and chance.random() < 0.3:
                kills.killed_after(lab, command, chance.uniform(0, 0.03))
            lab.run(*command, fault="none:0:0", more={"FAULT_WAITS": waits})
            vrefs[name] = True
            lab.counts["races of add and gc"] += 1
            if chance.random() < 0.4:  # given up
                os.remove(f"{lab.top}/s/{name}.vref")
                del vrefs[name]

    def collect():
        chance = random.Random(f"{lab.seed} {lab.case} gc")
        while not over.is_set():
            command = ["shrub", "gc", "--worktree", "--grace", "0", "s"] if chance.random() < 0.8 else ["vat", "--vat", "v", "repack", "--grace", "0"]
            if killing and chance.random() < 0.4:
                kills.killed_after(lab, command, chance.uniform(0, 0.03))
            else:
                lab.run(*command, expect=(0, 8, 11))  # 8: a vref was taken away under its eyes

    def look():
        chance = random.Random(f"{lab.seed} {lab.case} look")
        while not over.is_set():
            lab.run("shrub", "cat", "s/t.vref", "big")
            if chance.random() < 0.3:
                lab.run("shrub", "sync", "s/t.vref", f"look{chance.randrange(2)}")
            time.sleep(0.01)

    workers = [Worker(lambda n=n: add(n)) for n in range(3 if killing else 1)]
    others = [Worker(collect)] + ([Worker(look)] if killing else [])
    try:
        for worker in workers:
            worker.done()
    finally:
        over.set()
        for other in others:
            other.join()
    for other in others:
        other.done()
    if not killing:
        with open(waits, encoding="ascii") as file:
            longest = max(int(line) for line in file) / 1000
        lab.worse("an add waits for gc (ms)", round(longest, 1))
        lab.check(longest <= 100, f"an add waited {longest} ms")
    lab.run("shrub", "gc", "--worktree", "--grace", "0", "s")
    lab.run("shrub", "gc", "--worktree", "--grace", "0", "s")
    lab.verified()
    lab.run("shrub", "sync", "s", "W")
    lab.same(lab.path("old"), f"{lab.top}/W/t")
    for name in vrefs:
        lab.same(f"{lab.top}/files/{name}", f"{lab.top}/W/{name}")
    lab.no_leftovers(None)
