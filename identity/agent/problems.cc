#include "identity/agent/problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "identity/agent/judgement.h"
#include "identity/certificate.h"
#include "identity/crl.h"

namespace inlay::identity::agent {
namespace {

constexpr std::time_t kDay = 86400;
constexpr std::time_t kJumpRemembered = 3600;

// What ends so soon is named: the closer, the louder. Nothing for what has longer.
bool is_near(std::time_t end, std::time_t now, Severity &severity) {
  const std::time_t left = end - now;
  if (left > kNoticeDays[0] * kDay) return false;
  severity = left > kNoticeDays[1] * kDay ? Severity::notice : Severity::warning;
  return true;
}

std::string end_text(std::time_t end, std::time_t now) {
  if (end <= now) {
    return fmt::format("expired at {}, the clock here says {}", time_text(end), time_text(now));
  }
  const std::time_t left = end - now;
  // The last week is counted in days and hours.
  const std::string span = left > kNoticeDays[2] * kDay
                               ? fmt::format("{} days", left / kDay)
                               : fmt::format("{} days {} hours", left / kDay, left % kDay / 3600);
  return fmt::format("ends at {}, in {}", time_text(end), span);
}

void add_authorities(const View &view, std::time_t now, std::vector<Problem> &problems) {
  for (const AuthoritySummary &authority : authorities_of(view.trust)) {
    Severity severity{};
    if (!is_near(authority.expires, now, severity)) continue;
    problems.push_back({severity,
                        {},
                        fmt::format("the authority {} of {} {}", authority.subject,
                                    authority.trust_domain, end_text(authority.expires, now)),
                        authority.expires <= now
                            ? "what it signed is refused everywhere; take it out of the bundle"
                            : "make its successor, add that to every bundle, then issue from it"});
  }
  for (const auto &[trust_domain, bundle] : view.trust.bundles) {
    if (!bundle.x509_authorities.empty()) continue;
    problems.push_back(
        {Severity::error,
         {},
         fmt::format("the bundle of {} is empty: nobody of it is trusted", trust_domain),
         "unless that is meant, fetch the bundle anew"});
  }
}

// Of SVIDs of which nobody here knows when they are renewed.
void add_files(const std::string &id, const HeldSvid &held, std::time_t now,
               std::vector<Problem> &problems) {
  if (held.renew_at != 0) return;
  const std::time_t life = held.svid.not_after - held.svid.not_before;
  Severity severity = Severity::warning;
  const bool near = life > kNoticeDays[0] * kDay ? is_near(held.svid.not_after, now, severity)
                                                 : held.svid.not_after - now < life / 4;
  if (!near) return;
  problems.push_back({severity, id,
                      fmt::format("the SVID of {} {}", id, end_text(held.svid.not_after, now)),
                      "whatever writes it should have renewed it by now; look there"});
}

void add_intermediates(const HeldSvid &held, std::time_t now, std::set<std::string> &named,
                       std::vector<Problem> &problems) {
  for (std::size_t at = 1; at < held.svid.chain.size(); ++at) {
    const X509 *const certificate = held.svid.chain[at].get();
    const auto end = to_time(X509_get0_notAfter(certificate));
    Severity severity{};
    if (!end || !is_near(*end, now, severity) || !named.insert(held.chain[at]).second) continue;
    // Short-lived ones are renewed by whoever has short-lived ones.
    const auto start = to_time(X509_get0_notBefore(certificate));
    if (start && *end - *start <= kNoticeDays[0] * kDay && *end - now > (*end - *start) / 4) {
      continue;
    }
    problems.push_back({severity,
                        {},
                        fmt::format("the intermediate authority {} {}", subject_text(certificate),
                                    end_text(*end, now)),
                        "have its issuer renew it"});
  }
}

void add_identities(const View &view, std::time_t now, std::vector<Problem> &problems) {
  std::set<std::string> named;
  for (const auto &[id, state] : view.identities) {
    if (const std::string why = why_no_svid(view, id, now); !why.empty()) {
      problems.push_back({Severity::error, id, fmt::format("no valid SVID for {}: {}", id, why),
                          "its connections are refused until this is put right; "
                          "it is tried again by itself"});
      continue;
    }
    if (!state.error.empty()) {
      problems.push_back({Severity::warning, id,
                          fmt::format("the SVID of {} could not be renewed: {}", id, state.error),
                          fmt::format("put it right before {}: it is tried again by itself",
                                      time_text(state.current->svid.not_after))});
    }
    add_files(id, *state.current, now, problems);
    add_intermediates(*state.current, now, named, problems);
  }
}

// A list that is stale stays in force: what it revokes stays revoked.
void add_crls(const View &view, std::time_t now, std::vector<Problem> &problems) {
  for (const std::string &der : view.trust.crls) {
    const auto crls = parse_crls(der);
    if (!crls || crls->front().next_update == 0 || crls->front().next_update > now) continue;
    problems.push_back(
        {Severity::warning,
         {},
         fmt::format("the CRL of {} is stale: a newer one was due at {}, the clock here says {}",
                     crls->front().issuer, time_text(crls->front().next_update), time_text(now)),
         "fetch it anew; what it revokes stays revoked meanwhile"});
  }
}

}  // namespace

std::string_view name(Severity severity) noexcept {
  switch (severity) {
    case Severity::notice:
      return "notice";
    case Severity::warning:
      return "warning";
    case Severity::error:
      break;
  }
  return "error";
}

std::vector<AuthoritySummary> authorities_of(const Trust &trust) {
  const ErrorMark mark;
  std::vector<AuthoritySummary> all;
  for (const auto &[trust_domain, bundle] : trust.bundles) {
    for (const std::string &der : bundle.x509_authorities) {
      const X509Ptr certificate =
          certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
      const auto end = certificate ? to_time(X509_get0_notAfter(certificate.get())) : std::nullopt;
      if (end) all.push_back({trust_domain, subject_text(certificate.get()), *end});
    }
  }
  return all;
}

bool source_is_up(const View &view) {
  if (!view.trust_error.empty()) return false;
  return view.identities.empty() ||
         std::any_of(view.identities.begin(), view.identities.end(),
                     [](const auto &identity) { return identity.second.error.empty(); });
}

std::vector<Problem> problems_of(const View &view, std::time_t now) {
  const ErrorMark mark;
  std::vector<Problem> problems;
  add_identities(view, now, problems);
  if (!view.trust_error.empty()) {
    problems.push_back({Severity::warning,
                        {},
                        fmt::format("the trust bundles could not be renewed: {}", view.trust_error),
                        "the last good ones are in force; put it right"});
  }
  add_authorities(view, now, problems);
  add_crls(view, now, problems);
  if (view.clock_jump_at != 0 && std::abs(now - view.clock_jump_at) < kJumpRemembered) {
    problems.push_back({Severity::notice,
                        {},
                        fmt::format("the clock was set {} by {} s, to {}",
                                    view.clock_jump > 0 ? "forward" : "back",
                                    std::abs(view.clock_jump), time_text(view.clock_jump_at)),
                        "SVIDs were renewed by the new time; if it is wrong, set it right"});
  }
  std::stable_sort(problems.begin(), problems.end(),
                   [](const Problem &a, const Problem &b) { return a.severity > b.severity; });
  return problems;
}

}  // namespace inlay::identity::agent
