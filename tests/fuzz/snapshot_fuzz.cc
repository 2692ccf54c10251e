// A policy's snapshot: whatever the block holds, it is a whole policy or an error.
#include "input.h"
#include "policy/policy.h"
#include "policy/snapshot.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  using namespace inlay::policy;
  inlay::fuzz::Input input(data, size);
  const std::string_view text = input.text();
  auto policy = deserialize({text.data(), text.size()});
  if (!policy) {
    inlay::fuzz::must(!sentence(policy.error()).empty());
    return 0;
  }
  auto again = deserialize(serialize(*policy));
  inlay::fuzz::must(again.has_value() && again->inbound == policy->inbound &&
                    again->outbound == policy->outbound && again->defaults == policy->defaults &&
                    again->identity == policy->identity);
  return 0;
}
