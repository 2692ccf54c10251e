#include "identity/agent/metrics.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <map>

#include "identity/agent/problems.h"
#include "identity/certificate.h"
#include "identity/crl.h"

namespace inlay::identity::agent {
namespace {

// Prometheus' text format 0.0.4: in a label's value these three are written with a backslash.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

class Text {
 public:
  void family(std::string_view name, std::string_view kind, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, kind);
  }
  template <typename Number>
  void sample(Number value, std::string_view labels = {}) {
    text_ += labels.empty() ? fmt::format("{} {}\n", name_, value)
                            : fmt::format("{}{{{}}} {}\n", name_, labels, value);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string name_, text_;
};

std::string label(std::string_view name, std::string_view value) {
  return fmt::format("{}=\"{}\"", name, escaped(value));
}

// The first bytes of its SHA-256: two authorities may have one name.
std::string fingerprint(const std::string &der) {
  std::array<unsigned char, 32> digest{};
  EVP_Q_digest(library_context(), "SHA256", nullptr, der.data(), der.size(), digest.data(),
               nullptr);
  std::string text;
  for (std::size_t at = 0; at < 8; ++at) text += fmt::format("{:02x}", digest[at]);
  return text;
}

void add_svids(const View &view, Text &text) {
  text.family("inlay_svid_expiry_timestamp_seconds", "gauge", "When the SVID in force expires.");
  for (const auto &[id, state] : view.identities) {
    if (state.current) text.sample(state.current->svid.not_after, label("spiffe_id", id));
  }
  text.family("inlay_svid_up", "gauge", "Whether there is an SVID in force.");
  for (const auto &[id, state] : view.identities) {
    text.sample(state.current ? 1 : 0, label("spiffe_id", id));
  }
  text.family("inlay_svid_rotations_total", "counter", "How often an SVID was replaced.");
  for (const auto &[id, state] : view.identities) {
    text.sample(state.rotations, label("spiffe_id", id));
  }
}

void add_trust(const View &view, Text &text) {
  text.family("inlay_bundle_authority_expiry_timestamp_seconds", "gauge",
              "When an authority of a trust bundle expires.");
  std::map<std::string, std::time_t> ends;  // by labels: a certificate twice is one sample
  for (const auto &[trust_domain, bundle] : view.trust.bundles) {
    for (const std::string &der : bundle.x509_authorities) {
      const X509Ptr certificate =
          certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
      const auto end = certificate ? to_time(X509_get0_notAfter(certificate.get())) : std::nullopt;
      if (!end) continue;
      ends[label("trust_domain", trust_domain) + "," +
           label("subject", subject_text(certificate.get())) + "," +
           label("sha256", fingerprint(der))] = *end;
    }
  }
  for (const auto &[labels, end] : ends) text.sample(end, labels);

  text.family("inlay_crl_next_update_timestamp_seconds", "gauge", "When a CRL becomes stale.");
  std::map<std::string, std::time_t> updates;
  for (const std::string &der : view.trust.crls) {
    const auto crls = parse_crls(der);
    if (!crls || crls->front().next_update == 0) continue;
    updates[label("issuer", crls->front().issuer) + "," + label("sha256", fingerprint(der))] =
        crls->front().next_update;
  }
  for (const auto &[labels, update] : updates) text.sample(update, labels);
}

void add_counters(const Counters &counters, Text &text) {
  text.family("inlay_signatures_total", "counter", "TLS handshakes signed for processes.");
  text.sample(counters.signatures.load());
  text.family("inlay_jwt_svids_total", "counter", "JWT-SVIDs handed out.");
  text.sample(counters.jwt_svids.load());
  text.family("inlay_refusals_total", "counter", "Requests refused, by reason.");
#define INLAY_AGENT_REFUSAL_SAMPLE(id, word, sentence)                              \
  text.sample(counters.refusals[static_cast<std::size_t>(AgentRefusal::id)].load(), \
              label("reason", word));
  INLAY_AGENT_REFUSALS(INLAY_AGENT_REFUSAL_SAMPLE)
#undef INLAY_AGENT_REFUSAL_SAMPLE
  text.family("inlay_attached_processes", "gauge", "Processes that get their identity here now.");
  text.sample(counters.attached.load());
  text.family("inlay_lost_log_lines_total", "counter", "Audit lines that could not be written.");
  text.sample(counters.lost_log_lines.load());
}

}  // namespace

std::string metrics_text(const View &view, const Counters &counters, const std::string &source) {
  const ErrorMark mark;
  Text text;
  text.family("inlay_build_info", "gauge", "Always 1; which inlay this is.");
  text.sample(1, label("version", INLAY_VERSION));
  text.family("inlay_source_up", "gauge", "Whether the source gave what it was last asked for.");
  text.sample(source_is_up(view) ? 1 : 0, label("source", source));
  add_svids(view, text);
  add_trust(view, text);
  add_counters(counters, text);
  return text.take();
}

}  // namespace inlay::identity::agent
