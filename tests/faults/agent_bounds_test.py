#!/usr/bin/env python3
"""What an agent has is not endless: rates, places, descriptors, memory and room on its disk."""

import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import (ALICE, ATTACH, BOB, ENTRIES, REFUSED, SIGNATURE, SNAPSHOT, STATUS, TRUST_DOMAIN, Agent,
                           Client, Crowd, as_user, attach_request, attached)
from support import until


class Bounds(unittest.TestCase):
    def test_T62_signatures_have_a_cap_for_each_process(self):
        agent = Agent(top="[limits]\nsignatures_per_second = 1")
        self.addCleanup(agent.close)

        def work():
            client, snapshot = attached(agent)
            return [client.sign(snapshot.key) for _ in range(200)]
        results = as_user(ALICE, work)
        self.assertEqual(results[0], f"frame {SIGNATURE}")
        self.assertIn("rate-limited", results)
        agent.audited(event="refused", reason="rate-limited", uid=ALICE)

        def other():
            client, snapshot = attached(agent)
            return client.sign(snapshot.key)
        self.assertEqual(as_user(BOB, other), f"frame {SIGNATURE}")

    def test_T66_few_descriptors_are_enough_for_who_is_attached(self):
        agent = Agent(prefix=("prlimit", "--nofile=96"))
        self.addCleanup(agent.close)

        def work():
            client, snapshot = attached(agent)
            pid = os.fork()
            if pid == 0:
                kept = [Client(agent) for _ in range(300)]
                os._exit(0 if kept else 1)
            os.waitpid(pid, 0)
            return client.sign(snapshot.key)
        self.assertEqual(as_user(ALICE, work), f"frame {SIGNATURE}")
        self.assertIsNone(agent.child.poll())

    def test_T66_without_any_descriptor_it_waits_and_goes_on(self):
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        listen = agent.folder / "run" / "metrics.sock"
        agent.write_config(top=f'[metrics]\nlisten = "unix://{listen}"')
        agent.start()
        pid = agent.child.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        waiting = Client(agent)
        waiting.send(ATTACH, attach_request())
        metrics = socket.socket(socket.AF_UNIX)
        self.addCleanup(metrics.close)
        metrics.connect(str(listen))
        metrics.sendall(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")

        def sleeps():
            states = [task.read_text().rpartition(")")[2].split()[0] for task in
                      pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
            return set(states) == {"S"}
        until(lambda: all(sleeps() for _ in range(50)), "every thread of the agent to sleep, again and again")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.assertTrue(metrics.recv(12).startswith(b"HTTP/1.1 200"))
        self.assertEqual(waiting.receive()[0], REFUSED)  # root has no entry
        as_user(ALICE, lambda: bool(attached(agent)))

    def test_T66_users_who_attach_all_they_can_leave_places_for_others(self):
        crowd = range(42001, 42004)
        entries = ENTRIES + "".join(f'[[entry]]\nid = "spiffe://{TRUST_DOMAIN}/u{user}"\nuid = {user}\n'
                                    for user in crowd)
        agent = Agent(entries=entries, prefix=("prlimit", "--nofile=256"))
        self.addCleanup(agent.close)

        def fill():
            kept = []
            for _ in range(30):
                kept.append(Client(agent))
                try:
                    kept[-1].ask(ATTACH, attach_request())
                except OSError:
                    pass  # it was cut off
            return kept
        self.addCleanup(Crowd(crowd, fill).leave)

        def work():
            client, snapshot = attached(agent)
            return client.sign(snapshot.key)
        self.assertEqual(as_user(ALICE, work), f"frame {SIGNATURE}")
        line = agent.audited(event="cut-off", detail="its user has the most processes attached")
        self.assertIn(line["uid"], crowd)

    def test_T66_a_full_disk_loses_lines_and_no_signatures(self):
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        full = agent.folder / "full"
        full.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "tmpfs", full], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", full], check=True)
        agent.log = full / "audit.jsonl"
        agent.write_config()
        agent.start()

        def work():
            client, snapshot = attached(agent)
            return [client.sign(snapshot.key) for _ in range(50)]
        self.assertEqual(set(as_user(ALICE, work)), {f"frame {SIGNATURE}"})
        report = json.loads(Client(agent).ask(STATUS)[1])
        self.assertIn("log", json.dumps(report))

    def test_T66_without_memory_a_request_fails_and_the_agent_lives(self):
        agent = Agent()
        self.addCleanup(agent.close)

        def work(ours):
            client, snapshot = attached(agent)
            ours.sendall(b"1")
            ours.recv(1)  # there is no more memory from here on
            kept, answers = [client], []
            for _ in range(400):
                try:
                    kept.append(Client(agent))
                    answer = kept[-1].ask(ATTACH, attach_request())
                    answers.append(answer and answer[0])
                except OSError:
                    answers.append(None)
            ours.sendall(b"2")
            ours.recv(1)
            # Its own connection may be one of those that found no memory.
            return [answers.count(SNAPSHOT), len(answers), Client(agent).sign(snapshot.key)]
        here, there = socket.socketpair()
        pid = agent.child.pid

        def limits():
            here.recv(1)
            size = int(re.search(r"VmSize:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
            before = resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            here.sendall(b"1")
            here.recv(1)
            resource.prlimit(pid, resource.RLIMIT_AS, before)
            here.sendall(b"2")
        governor = threading.Thread(target=limits)
        governor.start()
        given, asked, signed = as_user(ALICE, work, there)
        governor.join()
        self.assertIsNone(agent.child.poll())
        self.assertLess(given, asked, "there was memory enough")
        self.assertEqual(signed, f"frame {SIGNATURE}")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root can be several users; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
