// What libinlay.so asks of the agent, answered without a socket between the two.
#include "identity/agent/shim_service.h"

#include <doctest/doctest.h>
#include <linux/sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "child.h"
#include "identities_setup.h"
#include "identity/agent/config.h"
#include "identity/agent_snapshot.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;

namespace {

struct Agent {
  Setup identities;
  Counters counters;
  AuditLog audit{counters};
  Attestor attestor{std::make_shared<const Config>(config())};
  std::shared_ptr<const View> view = identities.identities->view();
  ShimService service{{.attestor = attestor,
                       .audit = audit,
                       .counters = counters,
                       .view = [this] { return view; },
                       .adopt = {},
                       .status = {}}};

  Agent() { REQUIRE(audit.open(identities.folder.path() + "/audit.jsonl")); }
  static Config config() {
    Config out;
    out.trust_domain = "example.org";
    Entry own{.number = 1, .id = id("web"), .policy_file = {}, .policy = {}, .selectors = {}};
    own.selectors.user = geteuid();
    out.entries.push_back(own);
    return out;
  }
  std::vector<std::string> lines() const {
    std::ifstream file(identities.folder.path() + "/audit.jsonl");
    std::vector<std::string> out;
    for (std::string line; std::getline(file, line);) out.push_back(line);
    return out;
  }
  // As a kernel before Linux 6.5 has it: no pidfd comes with a request.
  Reply ask(AgentFrame frame, const std::string &body, const Caller &writer) {
    IncomingFrame incoming;
    incoming.header.frame = frame;
    incoming.header.request = 1;
    incoming.header.length = static_cast<std::uint32_t>(body.size());
    incoming.body = body;
    incoming.writer = writer;
    return service.answer({.connection = 1, .frame = std::move(incoming)});
  }
  std::string sign(const KeyId &key, const Caller &writer) {
    SignRequest wanted{.key = key, .scheme = 0x0403, .hash_length = 32};
    std::string body(reinterpret_cast<const char *>(&wanted), sizeof wanted);
    body.append(kSignaturePadding, ' ').append(kClientContext, sizeof kClientContext);
    const Reply reply = ask(AgentFrame::sign, body.append(32, '\x11'), writer);
    return reply.frame == AgentFrame::signature ? "signed" : refusal_of(reply);
  }
  static std::string refusal_of(const Reply &reply) {
    RefusedAnswer answer;
    if (reply.frame != AgentFrame::refused || reply.bytes.size() < sizeof answer) return "";
    std::memcpy(&answer, reply.bytes.data(), sizeof answer);
    return std::string(name(answer.refusal));
  }
};

std::string attach_body() {
  const AttachRequest nothing;
  return {reinterpret_cast<const char *>(&nothing), sizeof nothing};
}

// A child that has the pid of one that has ended; -1 where nobody may choose a pid.
pid_t child_with_pid(pid_t wanted) {
  clone_args how{};
  how.exit_signal = SIGCHLD;
  how.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
  how.set_tid_size = 1;
  const long made = syscall(SYS_clone3, &how, sizeof how);
  if (made != 0) return static_cast<pid_t>(made);
  for (;;) pause();
}

}  // namespace

TEST_CASE("T61 without pidfds, whoever has the pid of one that was attached hears nothing") {
  Agent agent;
  Child child;
  REQUIRE(agent.ask(AgentFrame::attach, attach_body(), child.caller()).attached);
  auto news = agent.service.news(1);
  CHECK(!news.end);
  CHECK(!news.reply);

  // Start times are in ticks of a hundredth of a second.
  const std::uint64_t started = start_time_of(child.pid());
  child.end();
  pid_t next = 0;
  do {
    if (next > 0) {
      kill(next, SIGKILL);
      waitpid(next, nullptr, 0);
    }
    next = child_with_pid(child.pid());
    if (next < 0) {
      MESSAGE("nobody may choose a pid here: not tried");
      return;
    }
  } while (start_time_of(next) == started);
  // It would be given that ID if it asked itself.
  CHECK(agent.attestor.attest({next, getuid(), getgid()}, -1).entry != nullptr);
  news = agent.service.news(1);
  CHECK(news.end);
  CHECK(!news.reply);
  kill(next, SIGKILL);
  waitpid(next, nullptr, 0);
}

TEST_CASE("T64 the key of an SVID that has ended signs nothing, though it is still there") {
  Agent agent;
  const Child child;
  auto view = *agent.view;
  HeldSvid &held = const_cast<HeldSvid &>(*view.identities.at(id("web").uri()).current);
  CHECK(agent.sign(held.key_id, child.caller()) == "signed");
  const std::time_t end = held.svid.not_after, begin = held.svid.not_before;
  held.svid.not_after = std::time(nullptr) - 1;
  CHECK(agent.sign(held.key_id, child.caller()) == "no-svid");
  held.svid.not_after = end;
  held.svid.not_before = std::time(nullptr) + 60;
  CHECK(agent.sign(held.key_id, child.caller()) == "no-svid");
  held.svid.not_before = begin;
  CHECK(agent.sign(held.key_id, child.caller()) == "signed");
}

TEST_CASE("T63 the key of the SVID before the newest signs, for who has not heard yet") {
  Agent agent;
  const Child child;
  const Setup later;
  View view = *agent.view;
  IdentityState &state = view.identities.at(id("web").uri());
  state.previous.push_back(state.current);
  state.current = later.identities->view()->identities.at(id("web").uri()).current;
  const KeyId old = state.previous[0]->key_id, fresh = state.current->key_id;
  agent.view = std::make_shared<const View>(std::move(view));
  REQUIRE(fresh != old);
  CHECK(agent.sign(fresh, child.caller()) == "signed");
  CHECK(agent.sign(old, child.caller()) == "signed");
  CHECK(agent.sign(KeyId{}, child.caller()) == "unknown-key");
}

TEST_CASE("T62 signatures have a cap for each user, however many processes it has") {
  Agent agent;
  ShimService service({.attestor = agent.attestor,
                       .audit = agent.audit,
                       .counters = agent.counters,
                       .view = [&] { return agent.view; },
                       .adopt = {},
                       .status = {}},
                      {.of_a_process = 100'000, .of_a_user = 1});
  const KeyId key = agent.view->identities.at(id("web").uri()).current->key_id;
  const Child one, two;
  const auto sign = [&](const Child &child) {
    SignRequest wanted{.key = key, .scheme = 0x0403, .hash_length = 32};
    IncomingFrame frame;
    frame.header.frame = AgentFrame::sign;
    frame.body.assign(reinterpret_cast<const char *>(&wanted), sizeof wanted);
    frame.body.append(kSignaturePadding, ' ').append(kClientContext, sizeof kClientContext);
    frame.body.append(32, '\x11');
    frame.writer = child.caller();
    const Reply reply = service.answer({.connection = 1, .frame = std::move(frame)});
    return reply.frame == AgentFrame::signature ? "signed" : Agent::refusal_of(reply);
  };
  CHECK(sign(one) == "signed");
  std::string last = "signed";
  for (int more = 0; more < 1000 && last == "signed"; ++more) last = sign(two);
  CHECK(last == "rate-limited");
}

TEST_CASE("T62 requests of a user have a rate, whatever is asked") {
  Agent agent;
  const Child child;
  std::string last = "malformed";
  for (int more = 0; more < 1'000'000 && last == "malformed"; ++more) {
    last = Agent::refusal_of(agent.ask(AgentFrame::refused, "", child.caller()));
  }
  CHECK(last == "rate-limited");
  Caller other = child.caller();
  other.uid = 4242;
  CHECK(Agent::refusal_of(agent.ask(AgentFrame::refused, "", other)) == "malformed");
}

TEST_CASE("a process is given the bundles of all trust domains, and the CRLs") {
  Agent agent;
  View view = *agent.view;
  view.trust.bundles["partner.example"] = view.trust.bundles.at("example.org");
  view.trust.crls = {"a CRL"};
  agent.view = std::make_shared<const View>(std::move(view));
  const Child child;
  const Reply reply = agent.ask(AgentFrame::attach, attach_body(), child.caller());
  REQUIRE(reply.frame == AgentFrame::snapshot);
  struct stat status {};
  REQUIRE(fstat(reply.fd.get(), &status) == 0);
  std::string block(static_cast<std::size_t>(status.st_size), '\0');
  REQUIRE(pread(reply.fd.get(), block.data(), block.size(), 0) == status.st_size);
  const auto snapshot = parse_agent_snapshot(block);
  REQUIRE(snapshot);
  CHECK(snapshot->bundles.size() == 2);
  CHECK(snapshot->bundles.contains("partner.example"));
  CHECK(snapshot->crls == std::vector<std::string>{"a CRL"});
}

TEST_CASE("each refusal is counted by its reason, and has its line") {
  Agent agent;
  const Child child;
  const auto counted = [&](AgentRefusal refusal) {
    return agent.counters.refusals[static_cast<std::size_t>(refusal)].load();
  };
  CHECK(agent.sign(KeyId{}, child.caller()) == "unknown-key");
  CHECK(counted(AgentRefusal::unknown_key) == 1);
  CHECK(agent.lines().back().find(R"("event":"refused")") != std::string::npos);
  CHECK(agent.lines().back().find(R"("reason":"unknown-key")") != std::string::npos);
  agent.service.cut_off(child.caller(), AgentRefusal::rate_limited, "why");
  CHECK(counted(AgentRefusal::rate_limited) == 1);
  CHECK(agent.lines().back().find(R"("event":"cut-off")") != std::string::npos);
  CHECK(agent.lines().back().find(R"("detail":"why")") != std::string::npos);
  CHECK(agent.counters.signatures == 0);
}

TEST_CASE(
    "T66 one user's refusals do not fill the log, and the next line says how many there were") {
  Agent agent;
  const Caller noisy{.pid = 1, .uid = 2001, .gid = 2001}, quiet{.pid = 2, .uid = 2002, .gid = 2002};
  const auto refuse = [&](const Caller &who) {
    agent.audit.write({.event = "refused", .caller = who, .reason = "no-entry"});
  };
  const auto last = [&] { return agent.lines().back(); };
  constexpr std::size_t kMany = 100'000;
  for (std::size_t i = 0; i < kMany; ++i) refuse(noisy);
  CHECK(agent.lines().size() < kMany / 2);
  refuse(quiet);
  CHECK(last().find(R"("uid":2002)") != std::string::npos);
  agent.audit.write({.event = "signature", .caller = noisy});
  CHECK(last().find(R"("event":"signature")") != std::string::npos);
  do {
    refuse(noisy);
  } while (last().find(R"("event":"refused")") == std::string::npos);
  CHECK(last().find("further_refusals_of_this_user") != std::string::npos);
}
