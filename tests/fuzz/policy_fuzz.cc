// The configuration: any bytes are a policy or one line of complaint; whatever is a policy can be
// asked, and gives the same answers after a round trip through a snapshot.
#include "input.h"
#include "policy/explain.h"
#include "policy/load.h"
#include "policy/policy.h"
#include "policy/snapshot.h"

namespace {

using namespace inlay::policy;
using inlay::fuzz::must;

void ask(const Policy &policy, const Policy &same) {
  constexpr const char *kAddresses[] = {"127.0.0.1", "10.1.2.3", "::1", "fe80::1"};
  constexpr std::uint16_t kPorts[] = {0, 80, 443, 6379, 65535};
  const auto peer = inlay::identity::SpiffeId::parse("spiffe://example.org/app");
  const std::string names[] = {"db.example.org", "localhost"};
  const std::string frames[] = {"libpq.so.5!PQconnectdb"};
  for (const char *text : kAddresses) {
    auto address = Address::parse(text);
    must(address.has_value());
    for (std::uint16_t port : kPorts) {
      InboundQuery inbound{.local = {*address, port}};
      must(decide(policy, inbound) == decide(same, inbound));
      must(!explain(policy, inbound, *peer).text().empty());
      OutboundQuery outbound{.remote = {*address, port},
                             .names = names,
                             .module = "/usr/lib/libpq.so.5",
                             .executable = "/usr/bin/psql",
                             .frames = frames,
                             .frames_known = true};
      must(decide(policy, outbound) == decide(same, outbound));
      must(!explain(policy, outbound, *peer).text().empty());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  inlay::fuzz::Input input(data, size);
  auto policy = parse(input.text(), "/base", "policy.toml");
  if (!policy) {
    const std::string text = policy.error().text();
    must(!policy.error().message.empty() && text.find('\n') == std::string::npos);
    return 0;
  }
  const std::string block = serialize(*policy);
  auto same = deserialize(block);
  must(same.has_value());
  ask(*policy, *same);
  return 0;
}
