// FAISS (Debian's libfaiss-dev) over a data set of sets.py.
//   faiss SET_DIRECTORY INDEX_FILE SECONDS FACTORY [NAME=VALUE[,NAME=VALUE] …]
// FACTORY is what faiss::index_factory understands, the settings what faiss::ParameterSpace does ("-": none); without settings
// the index is built and kept, nothing is searched. Debian's library has no AVX2: do not quote it as FAISS's best.
#include <faiss/AutoTune.h>
#include <faiss/Index.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <omp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "ann.h"

static size_t search(void *index, const float *query, uint32_t *ids_r)
{
	float score[ANN_K];
	faiss::Index::idx_t id[ANN_K];
	size_t n = 0;
	static_cast<faiss::Index *>(index)->search(1, query, ANN_K, score, id);
	while (n < ANN_K && id[n] >= 0) {
		ids_r[n] = (uint32_t)id[n];
		n++;
	}
	return n;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: faiss SET_DIRECTORY INDEX_FILE SECONDS FACTORY [NAME=VALUE[,NAME=VALUE] ...]\n");
		return 2;
	}
	ann_set set;
	ann_open(&set, argv[1]);
	omp_set_num_threads(1);
	std::unique_ptr<faiss::Index> index;
	std::string engine = std::string("FAISS ") + argv[4];
	if (ann_kept(argv[2])) {
		index.reset(faiss::read_index(argv[2]));
	} else {
		double before = ann_private();
		ann_built b = ann_build_begin();
		index.reset(faiss::index_factory((int)set.d, argv[4], faiss::METRIC_INNER_PRODUCT));
		index->train((faiss::Index::idx_t)set.n, set.base);
		for (size_t i = 0; i < set.n; i += 1000) {
			size_t n = set.n - i < 1000 ? set.n - i : 1000;
			index->add((faiss::Index::idx_t)n, set.base + i * set.d);
		}
		double bytes = ann_private() - before;
		std::string part = std::string(argv[2]) + ".part";
		faiss::write_index(index.get(), part.c_str());
		if (rename(part.c_str(), argv[2]))
			return 2;
		ann_build_end(&b, &set, engine.c_str(), argv[4], bytes, argv[2]);
	}
	for (int i = 5; i < argc; i++) {
		if (strcmp(argv[i], "-") != 0)
			faiss::ParameterSpace().set_index_parameters(index.get(), argv[i]);
		ann_round round = {engine.c_str(), argv[i], atof(argv[3]), 0, nullptr, false};
		ann_measure(&set, &round, search, index.get());
	}
	return 0;
}
