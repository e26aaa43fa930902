// usearch over a data set of sets.py; its headers come from the npm package of the same name.
//   usearch SET_DIRECTORY INDEX_FILE SECONDS [expansion …]     (f32, connectivity 16, expansion while adding 200)
// Without expansions: builds the index and keeps it, nothing is searched.
#include <usearch/index_dense.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "ann.h"

using namespace unum::usearch;

static size_t search(void *index, const float *query, uint32_t *ids_r)
{
	auto found = static_cast<index_dense_t *>(index)->search(query, ANN_K);
	size_t n = found.size();
	for (size_t i = 0; i < n; i++)
		ids_r[i] = (uint32_t)found[i].member.key;
	return n;
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: usearch SET_DIRECTORY INDEX_FILE SECONDS [expansion ...]\n");
		return 2;
	}
	ann_set set;
	ann_open(&set, argv[1]);
	metric_punned_t metric(set.d, metric_kind_t::ip_k, scalar_kind_t::f32_k);
	index_dense_config_t config(16, 200, 64);
	auto made = index_dense_t::make(metric, config);
	if (!made || !made.index.try_reserve(index_limits_t(set.n, 1)))
		return 2;
	index_dense_t &index = made.index;
	if (ann_kept(argv[2])) {
		if (!index.load(argv[2]))
			return 2;
	} else {
		double before = ann_private();
		ann_built b = ann_build_begin();
		for (size_t i = 0; i < set.n; i++) {
			if (!index.add(i, set.base + i * set.d))
				return 2;
		}
		double bytes = ann_private() - before;
		std::string part = std::string(argv[2]) + ".part";
		if (!index.save(part.c_str()) || rename(part.c_str(), argv[2]))
			return 2;
		ann_build_end(&b, &set, "usearch", "f32, connectivity 16, expansion_add 200", bytes, argv[2]);
	}
	for (int i = 4; i < argc; i++) {
		index.change_expansion_search(strtoul(argv[i], nullptr, 10));
		std::string parameter = std::string("expansion ") + argv[i];
		ann_round round = {"usearch", parameter.c_str(), atof(argv[3]), 0, nullptr, false};
		ann_measure(&set, &round, search, &index);
	}
	fprintf(stderr, "usearch: %s kernels\n", index.metric().isa_name());
	return 0;
}
