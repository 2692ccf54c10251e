// Whether there are descriptors for who comes next.
#pragma once

#include "policy/trusted_file.h"

namespace inlay::identity::agent {

// One that can be given up for another; empty when none is left.
policy::UniqueFd spare_descriptor() noexcept;

// As many as it takes to attest and answer one more process.
bool is_room_for_a_newcomer() noexcept;

}  // namespace inlay::identity::agent
