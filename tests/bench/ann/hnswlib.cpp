// hnswlib (Debian's libhnswlib-dev) over a data set of sets.py.
//   hnswlib SET_DIRECTORY INDEX_FILE SECONDS [ef …]     (M 16, ef while building 200)
// Without ef: builds the index and keeps it, nothing is searched.
#include <hnswlib/hnswlib.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "ann.h"

using graph = hnswlib::HierarchicalNSW<float>;

static size_t search(void *index, const float *query, uint32_t *ids_r)
{
	auto best = static_cast<graph *>(index)->searchKnn(query, ANN_K);
	size_t n = best.size();
	for (size_t i = n; i-- > 0; best.pop())
		ids_r[i] = (uint32_t)best.top().second;
	return n;
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: hnswlib SET_DIRECTORY INDEX_FILE SECONDS [ef ...]\n");
		return 2;
	}
	const size_t m = 16, construction = 200;
	ann_set set;
	ann_open(&set, argv[1]);
	hnswlib::InnerProductSpace space(set.d);
	std::unique_ptr<graph> index;
	if (ann_kept(argv[2])) {
		index.reset(new graph(&space, argv[2]));
	} else {
		ann_built b = ann_build_begin();
		index.reset(new graph(&space, set.n, m, construction));
		for (size_t i = 0; i < set.n; i++)
			index->addPoint(set.base + i * set.d, i);
		double bytes = (double)(set.n * index->size_data_per_element_);
		for (size_t i = 0; i < set.n; i++)
			bytes += (double)((size_t)index->element_levels_[i] * index->size_links_per_element_ + sizeof(void *));
		std::string part = std::string(argv[2]) + ".part";
		index->saveIndex(part);
		if (rename(part.c_str(), argv[2]))
			return 2;
		ann_build_end(&b, &set, "hnswlib", "M 16, efConstruction 200", bytes, argv[2]);
	}
	for (int i = 4; i < argc; i++) {
		index->setEf(strtoul(argv[i], nullptr, 10));
		std::string parameter = std::string("ef ") + argv[i];
		ann_round round = {"hnswlib", parameter.c_str(), atof(argv[3]), 0, nullptr, false};
		ann_measure(&set, &round, search, index.get());
	}
	return 0;
}
