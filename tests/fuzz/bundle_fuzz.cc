// Trust bundles: PEM, SPIFFE JSON or neither.
#include "identity/bundle.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  inlay::fuzz::Input input(data, size);
  auto bundle = inlay::identity::parse_bundle(input.text());
  if (bundle) {
    for (const auto &authority : bundle->authorities) inlay::fuzz::must(authority != nullptr);
  } else {
    inlay::fuzz::must(!bundle.error().message.empty());
    inlay::fuzz::must(bundle.error().message.find('\n') == std::string::npos);
  }
  return 0;
}
