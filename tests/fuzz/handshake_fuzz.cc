// A handshake whose peer sends anything, in pieces of any size, in either role. It may fail; it may
// never finish, for nothing in the input can prove a key.
#include <algorithm>
#include <vector>

#include "certificates.h"
#include "input.h"
#include "tls/handshake.h"

namespace {

using namespace inlay;
using fuzz::Input;
using fuzz::must;

struct World {
  testing::Identity root = testing::make_authority("example.org");
  std::shared_ptr<const tls::Credentials> credentials;

  World() {
    const testing::Identity leaf = testing::issue(root, "spiffe://example.org/app");
    auto made = tls::Credentials::make(testing::make_material(
        leaf, "spiffe://example.org/app",
        testing::bundles_of({{"example.org", root.certificate.get()}})));
    must(made.has_value());
    credentials = *made;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static World &world = *new World;
  Input input(data, size);
  const bool client = input.byte() % 2 == 0;
  auto handshake =
      tls::Handshake::start(world.credentials, client ? tls::Role::client : tls::Role::server,
                            [](const identity::SpiffeId &) { return true; });
  must(handshake != nullptr);
  std::vector<std::uint8_t> inbox, output;
  std::size_t consumed = 0;
  if (client) {
    must(handshake->advance({}, consumed, output) == tls::Handshake::Progress::need_input);
    must(!output.empty());
  }
  while (!input.empty()) {
    auto piece = input.bytes(input.number() % 512 + 1);
    inbox.insert(inbox.end(), piece.begin(), piece.end());
    consumed = 0;
    const auto progress = handshake->advance(inbox, consumed, output);
    must(consumed <= inbox.size());
    must(progress != tls::Handshake::Progress::finished);
    if (progress == tls::Handshake::Progress::failed) {
      must(handshake->failure().error != tls::HandshakeError::none);
      must(handshake->failure().detail.find('\n') == std::string::npos);
      return 0;
    }
    inbox.erase(inbox.begin(), inbox.begin() + static_cast<std::ptrdiff_t>(consumed));
    must(handshake->bytes_wanted() > inbox.size() || inbox.empty());
  }
  return 0;
}
