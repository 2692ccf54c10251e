// inlay ca: a development authority in files (init, issue); the rest is a separate executable.
#include "tools/ca.h"

#include <openssl/crypto.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "identity/authority.h"
#include "identity/bundle.h"
#include "identity/certificate.h"
#include "identity/file.h"
#include "tools/commands.h"
#include "tools/companion.h"
#include "tools/exit_code.h"
#include "tools/output_folder.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay ca init --dir DIR --trust-domain TD
       inlay ca issue --dir DIR --id SPIFFE-ID --out DIR [--ttl TIME]
       inlay ca serve --config FILE
       inlay ca token | entry | agents | revoke | rotate | bundle ...

init   makes a development authority in files: ca.pem, ca-key.pem (0600), bundle.pem, and the key
       for JWT-SVIDs, jwt-key.pem (0600); good for a year; never overwrites one
issue  makes an identity: svid.pem, key.pem (0600), bundle.pem; run it again to renew them, which
       running programs notice
serve  starts the issuing authority for more than one machine (inlay-ca); the words below it
       administer that: inlay ca token --help says more

Options:
  --dir DIR          the authority's folder
  --trust-domain TD  its trust domain, as example.org
  --id SPIFFE-ID     as spiffe://example.org/web
  --out DIR          where the identity goes; made where it is missing
  --ttl TIME         how long it is good: 30s, 5m, 1h (the default), 24h, 7d

Example:
  inlay ca init --dir authority --trust-domain example.org
  inlay ca issue --dir authority --id spiffe://example.org/redis --out redis

Exit codes: 0 good, 1 failed, 2 usage
)";

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 22;
constexpr const char *kCertificateFile = "ca.pem";
constexpr const char *kKeyFile = "ca-key.pem";
constexpr const char *kBundleFile = "bundle.pem";
constexpr const char *kJwtKeyFile = "jwt-key.pem";

// A key as text; cleansed when it goes.
struct KeyText {
  std::string pem;
  ~KeyText() { OPENSSL_cleanse(pem.data(), pem.size()); }
};

std::string path_of(const std::string &folder, const char *name) {
  return (std::filesystem::path(folder) / name).string();
}

tl::expected<identity::FileContent, std::string> read(const std::string &path) {
  auto content = identity::read_file(path, kMaxFileBytes);
  if (content) return content;
  return tl::unexpected("cannot read " + path + ": " + content.error() +
                        "; make an authority with inlay ca init");
}

tl::expected<identity::Authority, std::string> load_authority(const std::string &folder) {
  const auto certificate = read(path_of(folder, kCertificateFile));
  if (!certificate) return tl::unexpected(certificate.error());
  const std::string key_path = path_of(folder, kKeyFile);
  const auto key = read(key_path);
  if (!key) return tl::unexpected(key.error());
  if (const std::string complaint = identity::key_permission_complaint(key->status);
      !complaint.empty()) {
    return tl::unexpected("the authority's key " + key_path + " " + complaint);
  }
  auto authority = identity::Authority::parse(certificate->bytes, key->bytes);
  if (!authority) {
    return tl::unexpected(folder + " holds no usable authority: " + authority.error().message);
  }
  return std::move(*authority);
}

// The bundle may have been added to since; what would not parse at the other end is not handed out.
tl::expected<std::string, std::string> load_bundle(const std::string &folder) {
  const std::string path = path_of(folder, kBundleFile);
  const auto content = read(path);
  if (!content) return tl::unexpected(content.error());
  if (const auto bundle = identity::parse_bundle(content->bytes); !bundle) {
    return tl::unexpected("the trust bundle " + path + " is not usable: " + bundle.error().message);
  }
  return content->bytes;
}

// Prints the good news or ends the command with the bad.
void conclude(const tl::expected<std::string, std::string> &outcome) {
  if (!outcome) {
    complain(outcome.error());
    throw Exit{kExitFailed};
  }
  std::printf("%s\n", printable(*outcome).c_str());
}

}  // namespace

std::optional<std::time_t> parse_duration(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  std::time_t number = 0;
  const char *const end = text.data() + text.size() - 1;
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end || number <= 0) return std::nullopt;
  std::time_t unit = 0;
  switch (text.back()) {
    case 's':
      unit = 1;
      break;
    case 'm':
      unit = 60;
      break;
    case 'h':
      unit = 3600;
      break;
    case 'd':
      unit = 86400;
      break;
    default:
      return std::nullopt;
  }
  std::time_t seconds = 0;
  if (__builtin_mul_overflow(number, unit, &seconds)) return std::nullopt;
  return seconds;
}

tl::expected<std::string, std::string> init_authority(const std::string &folder,
                                                      const std::string &trust_domain,
                                                      std::time_t now) {
  const auto authority = identity::Authority::create(trust_domain, now);
  if (!authority) return tl::unexpected(authority.error().message);
  const KeyText key{authority->key_pem()};
  const std::string certificate = authority->certificate_pem();
  const KeyText jwt_key{identity::make_jwt_key_pem()};
  if (key.pem.empty() || certificate.empty() || jwt_key.pem.empty())
    return tl::unexpected(std::string("out of memory"));

  auto output = OutputFolder::open(folder, 0700);
  if (!output) return tl::unexpected(output.error());
  for (const char *name : {kCertificateFile, kKeyFile, kBundleFile, kJwtKeyFile}) {
    if (output->has(name)) {
      return tl::unexpected(path_of(folder, name) +
                            " exists already and is not overwritten; choose another folder");
    }
  }
  auto written = output->put(kKeyFile, key.pem, 0600);
  if (written) written = output->put(kJwtKeyFile, jwt_key.pem, 0600);
  if (written) written = output->put(kCertificateFile, certificate, 0644);
  if (written) written = output->put(kBundleFile, certificate, 0644);
  if (written) written = output->publish();
  if (!written) return tl::unexpected(written.error());
  return "authority for " + trust_domain + " in " + folder + ", good until " +
         identity::time_text(authority->not_after());
}

tl::expected<std::string, std::string> issue_svid(const std::string &folder, const std::string &id,
                                                  const std::string &out, std::time_t lifetime,
                                                  std::time_t now) {
  const auto spiffe_id = identity::SpiffeId::parse(id);
  if (!spiffe_id) {
    return tl::unexpected("\"" + id +
                          "\" is no SPIFFE ID: " + std::string(sentence(spiffe_id.error())));
  }
  const auto authority = load_authority(folder);
  if (!authority) return tl::unexpected(authority.error());
  const auto bundle = load_bundle(folder);
  if (!bundle) return tl::unexpected(bundle.error());
  auto issued = authority->issue(*spiffe_id, now, lifetime);
  if (!issued) return tl::unexpected(issued.error().message);
  const KeyText key{std::move(issued->key_pem)};

  auto output = OutputFolder::open(out, 0755);
  if (!output) return tl::unexpected(output.error());
  auto written = output->put(kBundleFile, *bundle, 0644);
  if (written) written = output->put("key.pem", key.pem, 0600, true);
  if (written) written = output->put("svid.pem", issued->chain_pem, 0644);
  if (written) written = output->publish();
  if (!written) return tl::unexpected(written.error());
  return spiffe_id->uri() + " in " + out + ", good until " + identity::time_text(issued->not_after);
}

void add_ca_command(const Command &root) {
  struct Options {
    std::string folder, trust_domain, id, out;
    std::string lifetime = "1h";
  };
  auto options = std::make_shared<Options>();
  const Command command = root.subcommand("ca", kHelp);
  command.require_subcommand();

  const Command init = command.subcommand("init", kHelp);
  init.required_option("--dir", options->folder);
  init.required_option("--trust-domain", options->trust_domain);
  init.callback([options] {
    conclude(init_authority(options->folder, options->trust_domain, std::time(nullptr)));
  });

  const Command issue = command.subcommand("issue", kHelp);
  issue.required_option("--dir", options->folder);
  issue.required_option("--id", options->id);
  issue.required_option("--out", options->out);
  issue.option("--ttl", options->lifetime);
  issue.callback([options] {
    const auto lifetime = parse_duration(options->lifetime);
    if (!lifetime) {
      complain("ca issue: --ttl " + options->lifetime +
               " is no time; write a number and s, m, h or d, as 30s or 24h");
      throw Exit{kExitFailed};
    }
    conclude(issue_svid(options->folder, options->id, options->out, *lifetime, std::time(nullptr)));
  });

  for (const char *word : {"serve", "token", "entry", "agents", "revoke", "rotate", "bundle"}) {
    command.pass_on(word, [word](std::vector<std::string> words) {
      words.insert(words.begin(), word);
      become_companion("inlay-ca", std::move(words));
    });
  }
}

}  // namespace inlay::tools
